"""`densevit COMMAND ...`: finds the command, turns a user's mistake into one sentence and exit code 2."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from densevit import __version__
from densevit.errors import UserError

COMMANDS = ("demo", "fit", "validate", "predict", "push", "data", "models", "recipes", "profile")
"""One module of densevit.cli each, in the order of `--help`."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="densevit", description="Dense prediction with vision transformers: SETR and HLG.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"densevit {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f"densevit.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 done but something is wrong with the data or a file, 2 a user's mistake,
    130 interrupted. Set DENSEVIT_TRACEBACK=1 to see where an error comes from.
    """
    args, settings = build_parser().parse_known_args(argv)
    if settings and not getattr(args, "takes_settings", False):
        build_parser().error(f"unrecognized arguments: {' '.join(settings)}")
    args.settings = settings
    try:
        return int(args.run(args))
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        if os.environ.get("DENSEVIT_TRACEBACK"):
            raise
        print(f"densevit {args.command}: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"densevit {args.command}: interrupted", file=sys.stderr)
        return 130


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)  # torch repeats an error of a loading process with its traceback around it
    return text.rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2].strip()


def console_main() -> None:
    """Entry point of the `densevit` script."""
    sys.exit(main())


if __name__ == "__main__":
    console_main()
