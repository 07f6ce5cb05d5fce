"""`densevit predict PICTURES --model RUN_OR_FILE --out DIR`: label maps and overlays of pictures."""

import argparse
from typing import Any

DESCRIPTION = """\
Segment pictures with a trained model:

  densevit predict street.jpg --model runs/demo --out predictions
  densevit predict photos/ "more/*.png" --model runs/demo --out predictions --confidence
  densevit predict photos/ --model runs/demo --eval.mode=slide --eval.crop_size=[512,512]

Writes NAME_labels.png (classes as pixel values, palette inside) and NAME_overlay.png for each. A picture that cannot
be read is reported and skipped. Exit code: 0 all done, 1 some were skipped, 2 nothing could be done.
"""


def add_parser(subparsers: Any) -> None:
    from densevit.cli.fit import add_settings

    parser = subparsers.add_parser(
        "predict",
        help="segment pictures with a trained model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURES", help="files, folders or quoted wildcards")
    parser.add_argument("--model", required=True, metavar="RUN_OR_FILE", help="run folder, model file or hub name")
    parser.add_argument("--out", default="predictions", metavar="DIR", help="where results go (predictions)")
    parser.add_argument("--probabilities", action="store_true", help="also NAME_probabilities.npy, (K, H, W) float16")
    parser.add_argument("--confidence", action="store_true", help="also NAME_confidence.png, 255 is certain")
    parser.add_argument("--alpha", type=float, default=0.55, help="opacity of the overlay's colours, 0 .. 1 (0.55)")
    parser.add_argument("--submission", metavar="SERVER", help="write ade20k or cityscapes test-server files instead")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the default is a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from densevit.errors import UserError
    from densevit.evaluation.submission import submission_writer
    from densevit.predict_files import check_submission_names, find_pictures, output_stems, predict_files

    out = Path(args.out)
    if not 0 <= args.alpha <= 1:
        raise UserError(f"--alpha is {args.alpha}; it must lie in 0 .. 1")
    writer = submission_writer(args.submission) if args.submission else None
    pictures = find_pictures(args.pictures, out=out)
    if writer:
        check_submission_names(pictures)
    out.mkdir(parents=True, exist_ok=True)  # no permission: told before the model is loaded
    predictor = _predictor(args)
    outcomes = predict_files(
        predictor,
        output_stems(pictures),
        out=out,
        probabilities=args.probabilities,
        confidence=args.confidence,
        alpha=args.alpha,
        submission=writer,
    )
    console = Console(stderr=True)
    failures = 0
    with _progress(console) as progress:
        for outcome in progress.track(outcomes, total=len(pictures), description="predicting"):
            if outcome.error is not None:
                failures += 1
                console.print(f"skipped: {outcome.error}", style="red", markup=False, highlight=False, soft_wrap=True)
    print(f"{len(pictures) - failures} of {len(pictures)} pictures segmented: {out}")
    return 1 if failures else 0


def _predictor(args: argparse.Namespace) -> Any:
    from densevit.cli.fit import overrides
    from densevit.predictor import Predictor

    inference = None
    if changes := overrides(args):
        from densevit.training.settings import override
        from densevit.weights.pretrained import read_info

        inference = override(read_info(args.model).training, changes).eval
    return Predictor.from_pretrained(args.model, device=args.device, dtype=args.dtype, inference=inference)


def _progress(console: Any) -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
