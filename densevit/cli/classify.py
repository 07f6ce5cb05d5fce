"""`densevit predict` with a classifier: the most probable classes of each picture, printed and as CSV."""

import argparse
from pathlib import Path

PRINTED = 20
"""Up to so many pictures are printed one by one."""


def classify(args: argparse.Namespace, pictures: list[Path], *, out: Path) -> int:
    """Write `predictions.csv` into `out`; the exit code. UserError for settings, which it has none of."""
    from rich.console import Console
    from rich.progress import track

    from densevit.classifier import Classifier, classify_files, write_predictions
    from densevit.cli.fit import overrides
    from densevit.cli.predict_options import refuse_settings

    refuse_settings(overrides(args), task="classification")
    top = 5 if args.top is None else args.top
    classifier = Classifier.from_pretrained(args.model, device=args.device, dtype=args.dtype)
    console = Console(stderr=True)
    found = []
    for item in track(
        classify_files(classifier, pictures),
        "classifying",
        total=len(pictures),
        console=console,
        disable=not console.is_terminal,
    ):
        found.append(item)
        if item.result is None:
            console.print(f"skipped: {item.error}", style="red", markup=False, highlight=False, soft_wrap=True)
        elif len(pictures) <= PRINTED:
            names = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in item.result.top(top))
            print(f"{item.path}: {names}")
    write_predictions(found, out / "predictions.csv", num_top=top)
    failures = sum(item.result is None for item in found)
    print(f"{len(pictures) - failures} of {len(pictures)} pictures classified: {out / 'predictions.csv'}")
    return 1 if failures else 0
