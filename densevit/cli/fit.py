"""`densevit fit`: train."""

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densevit.training.callbacks import Stopped
    from densevit.training.fit import FitResult

DESCRIPTION = """\
Train a model. Start from a recipe or a YAML file; every value can be overridden:

  densevit fit --recipe demo --train.num_steps=200
  densevit fit --config my.yaml --model.name=setr_mla_vit_small
  densevit fit --recipe camvid --data.root=data/camvid --out=runs/camvid
  densevit fit --resume runs/camvid

Settings are those of `densevit recipes NAME`.
"""

RESUMABLE = "checkpoints/last.ckpt"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "fit",
        help="train a model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", metavar="NAME", help="a named experiment (see `densevit recipes`)")
    parser.add_argument("--config", metavar="FILE", help="a YAML file of settings")
    parser.add_argument("--out", metavar="DIR", help="run folder (default: runs/RECIPE or runs/CONFIG)")
    parser.add_argument("--resume", metavar="RUN", help="go on with an interrupted run")
    add_settings(parser)
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--set KEY=VALUE` and, in `args.settings`, `--KEY=VALUE`."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="assignments",
        help="override a setting; the same as --KEY=VALUE",
    )
    parser.set_defaults(takes_settings=True)


def overrides(args: argparse.Namespace) -> list[str]:
    """Both spellings of overrides as --KEY=VALUE."""
    return [f"--{item}" for item in args.assignments] + list(args.settings)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from densevit.errors import UserError
    from densevit.training.settings import resolve

    if args.resume:
        if args.recipe or args.config or args.out:
            raise UserError("--resume takes everything from its run; leave out --recipe, --config and --out")
        config = Path(args.resume) / "config.yaml"
        if not config.is_file():
            raise UserError(f"nothing to resume in {args.resume}: there is no config.yaml")
        experiment, out = resolve(config=config, overrides=overrides(args)), Path(args.resume)
    else:
        experiment = resolve(recipe=args.recipe, config=args.config, overrides=overrides(args))
        out = Path(args.out) if args.out else Path("runs") / (args.recipe or Path(args.config).stem)

    from densevit.training.callbacks import Stopped
    from densevit.training.fit import fit

    try:
        result = fit(experiment, out, resume=bool(args.resume))
    except Stopped as stop:
        return stopped_message(stop)
    except KeyboardInterrupt:  # a second Ctrl-C, or one before the first step
        again = f"; continue with: densevit fit --resume {shlex.quote(str(out))}" if (out / RESUMABLE).is_file() else ""
        print(f"densevit fit: interrupted{again}", file=sys.stderr)
        return 130
    if os.environ.get("LOCAL_RANK", "0") == "0":  # one of the processes of several devices
        print_result(result)
    return 0


def stopped_message(stop: "Stopped") -> int:
    """Say how to go on after Ctrl-C; the exit code."""
    run = stop.checkpoint.parent.parent  # the checkpoint is the run's RESUMABLE
    print(f"{stop}; checkpoint {stop.checkpoint}", file=sys.stderr)
    print(f"continue with: densevit fit --resume {shlex.quote(str(run))}", file=sys.stderr)
    return 130


def print_result(result: "FitResult") -> None:
    """The scores of a finished training, beside those of the constant guess."""
    print(result.scores.table())
    print(f"best at step {result.best_step}; {result.scores.baseline}")
    print(f"model: {result.model_file}")
