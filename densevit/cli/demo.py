"""`densevit demo`: train, score and show a small model on generated street scenes."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="train, score and show a small model on generated street scenes",
        description="Trains a small SETR on generated street scenes (minutes on two CPU cores), scores it, and "
        "segments held-out pictures.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="run folder (default: runs/demo)")
    parser.add_argument("--num-steps", type=int, metavar="N", help="train for N steps instead of the recipe's")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from densevit.app.demo import run_demo
    from densevit.cli.fit import print_result, stopped_message
    from densevit.training.callbacks import Stopped

    out = Path(args.out)
    print("training a small SETR on generated street scenes ...", flush=True)
    try:
        result = run_demo(out, num_steps=args.num_steps)
    except Stopped as stop:
        return stopped_message(stop, out)
    print_result(result)
    print(f"look at {out / 'strip.png'} (held-out pictures) and {out / 'curves.png'}")
    return 0
