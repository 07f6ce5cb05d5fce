"""`densevit predict` with a detector: objects drawn on each picture, and all of them in one json."""

import argparse
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from densevit.weights.info import ModelInfo

ALPHA = 0.5
"""Opacity of the masks' colours."""
RESULTS = "coco_results.json"
NAMED = 6
"""Up to so many classes are named in the last line."""


def detect(args: argparse.Namespace, pictures: "list[Path]", info: "ModelInfo", *, out: "Path") -> int:
    """Write the results of all pictures into `out`; the exit code."""
    from rich.console import Console
    from rich.progress import track

    from densevit.cli.fit import overrides
    from densevit.cli.predict_options import changed_inference
    from densevit.detect_files import DetectionsWriter, SubmissionWriter, detect_files
    from densevit.object_detector import SCORE_THRESHOLD, ObjectDetector, class_indices

    classes = [name.strip() for name in args.classes.split(",")] if args.classes is not None else None
    class_indices(classes, info.classes)  # a wrong name is told before the work
    changes = overrides(args)
    inference = changed_inference(info, changes)
    if args.submission:
        writer: DetectionsWriter | SubmissionWriter = SubmissionWriter(
            out / RESULTS, info, pictures=pictures, annotations=args.annotations
        )
    else:
        writer = DetectionsWriter(out, info, pictures=pictures, alpha=ALPHA if args.alpha is None else args.alpha)
    detector = ObjectDetector.from_pretrained(args.model, device=args.device, dtype=args.dtype, inference=inference)
    # the server's score needs the unlikely objects too; and the evaluation's threshold holds where it is set
    is_set = any(change.startswith("--eval.score_threshold") for change in changes)
    default = None if args.submission or is_set else SCORE_THRESHOLD
    threshold = default if args.score_threshold is None else args.score_threshold
    console = Console(stderr=True)
    counts: Counter[str] = Counter()
    failures = 0
    for item in track(
        detect_files(detector, pictures, score_threshold=threshold, classes=classes),
        "detecting",
        total=len(pictures),
        console=console,
        disable=not console.is_terminal,
    ):
        if item.result is None:
            failures += 1
            console.print(f"skipped: {item.error}", style="red", markup=False, highlight=False, soft_wrap=True)
        else:
            counts.update(item.result.names)
            writer.add(item.path, item.result)
    written = writer.finish()
    print(f"{len(pictures) - failures} of {len(pictures)} pictures searched, {_found(counts)}: {written}")
    return 1 if failures else 0


def _found(counts: "Counter[str]") -> str:
    """ "17 objects (12 person, 5 car)"."""
    number = f"{sum(counts.values())} object{'' if sum(counts.values()) == 1 else 's'}"
    named = [f"{count} {name}" for name, count in counts.most_common(NAMED)]
    more = ", ..." if len(counts) > NAMED else ""
    return f"{number} ({', '.join(named)}{more})" if named else number
