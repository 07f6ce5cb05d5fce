"""`densevit demo`: two small trainings on generated street scenes, the packaged model on street pictures, one page."""

import argparse
import os
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="segment and detect on generated street scenes, try the packaged model, show all of it on one page",
        description="Trains a small SETR and a small Mask R-CNN on generated street scenes (minutes on two CPU cores), "
        "segments street pictures with the packaged model, and lays everything out in index.html.",
        allow_abbrev=False,
    )
    parser.add_argument("pictures", nargs="*", metavar="PICTURES", help="street pictures of your own: files, folders")
    parser.add_argument("--out", default="runs/demo", metavar="DIR", help="run folder (default: runs/demo)")
    parser.add_argument("--num-steps", type=int, metavar="N", help="train for N steps instead of the recipes'")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    # Read when torch is loaded. Without it a waiting thread keeps its core, and a training beside other work crawls.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    from pathlib import Path

    from densevit.app.demo import SHEET, run_demo
    from densevit.cli.fit import print_result, stopped_message
    from densevit.training.callbacks import Stopped

    out = Path(args.out)
    try:
        result = run_demo(
            out, num_steps=args.num_steps, pictures=args.pictures, say=lambda text: print(text, flush=True)
        )
    except Stopped as stop:
        return stopped_message(stop)
    print_result(result.segmentation)
    print_result(result.detection)
    print(f"look at {result.page} in a browser, or at {out / SHEET}")
    return 0
