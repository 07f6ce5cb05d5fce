"""`densevit predict` with a segmentation model: label maps and overlays of pictures, labelled videos."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from densevit.weights.info import ModelInfo

ALPHA = 0.55
"""Opacity of the overlay's colours."""


def segment(args: argparse.Namespace, pictures: "list[Path]", info: "ModelInfo", *, out: "Path") -> int:
    """Write the results of all pictures and videos into `out`; the exit code."""
    from rich.console import Console

    from densevit.cli.fit import overrides
    from densevit.cli.predict_options import changed_inference
    from densevit.predict_files import output_stems, predict_files
    from densevit.predictor import Predictor

    writer = _checked_writer(args, pictures, info)
    inference = changed_inference(info, overrides(args))
    predictor = Predictor.from_pretrained(args.model, device=args.device, dtype=args.dtype, inference=inference)
    console = Console(stderr=True)
    failures = num_written = 0
    with _Progress(console, total=len(pictures)) as progress:
        for outcome in predict_files(
            predictor,
            output_stems(pictures),
            out=out,
            probabilities=args.probabilities,
            confidence=args.confidence,
            alpha=ALPHA if args.alpha is None else args.alpha,
            submission=writer,
            every=args.every or 1,
            on_frame=progress.on_frame,
        ):
            progress.advance()
            num_written += bool(outcome.written)
            if outcome.error is not None:
                failures += 1
                text = outcome.error if outcome.written else f"skipped: {outcome.error}"
                console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    print(f"{num_written} of {len(pictures)} {_kinds(pictures)} segmented: {out}")
    return 1 if failures else 0


def _checked_writer(args: argparse.Namespace, pictures: "list[Path]", info: "ModelInfo") -> Any:
    """The writer for a test server, or None; UserError for what does not go together."""
    from densevit.data.cityscapes import CLASSES
    from densevit.evaluation.submission import check_classes, submission_writer
    from densevit.predict_files import check_pictures_only, check_submission_names

    for option in ("probabilities", "confidence", "submission"):
        if getattr(args, option):
            check_pictures_only(pictures, option=f"--{option}")
    if not args.submission:
        return None
    writer = submission_writer(args.submission)
    check_submission_names(pictures)
    check_classes(args.submission, info.classes, expected=CLASSES if args.submission == "cityscapes" else None)
    return writer


def _kinds(pictures: "list[Path]") -> str:
    from densevit.video_io import is_video

    videos = sum(map(is_video, pictures))
    return "pictures" if not videos else "videos" if videos == len(pictures) else "pictures and videos"


class _Progress:
    """A bar for the files, and below it one for the frames of the video at work."""

    def __init__(self, console: Any, *, total: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self.bars = Progress(*columns, TimeRemainingColumn(), console=console)
        self.files = self.bars.add_task("predicting", total=total)
        self.frames = self.bars.add_task("", visible=False)

    def __enter__(self) -> "_Progress":
        self.bars.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bars.stop()

    def advance(self) -> None:
        self.bars.advance(self.files)
        self.bars.update(self.frames, visible=False)

    def on_frame(self, video: "Path", done: int, total: int | None) -> None:
        if done == 1:
            self.bars.reset(self.frames, description=f"frames of {video.name}", visible=True)
        self.bars.update(self.frames, completed=done, total=total)
