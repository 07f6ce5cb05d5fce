"""`densevit predict FILES --model RUN_OR_FILE --out DIR`: label maps and overlays of pictures, labelled videos."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTION = """\
Segment pictures and videos with a trained model:

  densevit predict street.jpg --model runs/demo --out predictions
  densevit predict photos/ "more/*.png" --model runs/demo --out predictions --confidence
  densevit predict photos/ --model runs/demo --eval.mode=slide --eval.crop_size=[512,512]
  densevit predict ride.mp4 --model runs/demo --every 3

Writes NAME_labels.png (classes as pixel values, palette inside) and NAME_overlay.png for each picture, and
NAME_overlay.mp4 for each video; a classifier writes predictions.csv. What cannot be read is reported and skipped.
Exit code: 0 all done, 1 something was skipped or damaged, 2 the call itself is wrong.
"""

OPTIONS = (
    "model",
    "out",
    "probabilities",
    "confidence",
    "alpha",
    "every",
    "top",
    "submission",
    "device",
    "dtype",
    "set",
)


def add_parser(subparsers: Any) -> None:
    from densevit.cli.fit import add_settings

    parser = subparsers.add_parser(
        "predict",
        help="segment pictures and videos with a trained model",
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
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of a video, segment each Nth frame; labels stay between (1)"
    )
    parser.add_argument("--top", type=int, default=5, metavar="K", help="of a classifier, classes of a picture (5)")
    parser.add_argument("--submission", metavar="SERVER", help="write ade20k or cityscapes test-server files instead")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the default is a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from densevit.predict_files import find_pictures, output_stems, predict_files
    from densevit.weights.pretrained import read_info

    out = Path(args.out)
    pictures = find_pictures(args.pictures, out=out)
    writer = _checked_writer(args, pictures)
    _make_writable(out)
    info = read_info(args.model)
    if writer is not None and info.task == "segmentation":
        _check_submission_classes(args.submission, info.classes)
    if info.task == "classification":
        from densevit.cli.classify import classify

        return classify(args, pictures, out=out)
    predictor = _predictor(args)
    console = Console(stderr=True)
    failures = num_written = 0
    with _Progress(console, total=len(pictures)) as progress:
        for outcome in predict_files(
            predictor,
            output_stems(pictures),
            out=out,
            probabilities=args.probabilities,
            confidence=args.confidence,
            alpha=args.alpha,
            submission=writer,
            every=args.every,
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


def _checked_writer(args: argparse.Namespace, pictures: "list[Path]") -> Any:
    """The writer for a test server, or None; UserError for options out of range or that do not go together."""
    from densevit.errors import UserError
    from densevit.evaluation.submission import submission_writer
    from densevit.predict_files import check_pictures_only, check_submission_names

    if not 0 <= args.alpha <= 1:
        raise UserError(f"--alpha is {args.alpha}; it must lie in 0 .. 1")
    if args.every < 1:
        raise UserError(f"--every is {args.every}; give 1 for each frame of a video, 2 for each second one ...")
    for option in ("probabilities", "confidence", "submission"):
        if getattr(args, option):
            check_pictures_only(pictures, option=f"--{option}")
    if not args.submission:
        return None
    writer = submission_writer(args.submission)
    check_submission_names(pictures)
    return writer


def _check_submission_classes(server: str, classes: "tuple[str, ...]") -> None:
    """UserError for a model whose classes are not those of the test server."""
    from densevit.data.cityscapes import CLASSES
    from densevit.evaluation.submission import check_classes

    check_classes(server, classes, expected=CLASSES if server == "cityscapes" else None)


def _predictor(args: argparse.Namespace) -> Any:
    from densevit.cli.fit import overrides
    from densevit.predictor import Predictor

    changes = overrides(args)
    inference = _changed_inference(args.model, changes) if changes else None
    return Predictor.from_pretrained(args.model, device=args.device, dtype=args.dtype, inference=inference)


def _changed_inference(model: str, changes: list[str]) -> Any:
    """The evaluation setting stored with a model, with some values of `eval` replaced; nothing else can be set here."""
    from dataclasses import asdict

    from densevit.errors import UserError, unknown_name
    from densevit.inference.settings import InferenceConfig
    from densevit.training.config import SegmentationExperiment
    from densevit.training.settings import override
    from densevit.weights.pretrained import read_info

    keys = [f"eval.{name}" for name in asdict(InferenceConfig())]
    for argument in changes:
        key = argument.removeprefix("--").partition("=")[0]
        if argument.startswith("--") and key not in keys:
            raise unknown_name("option or setting", key, [*OPTIONS, *keys])
    info = read_info(model)
    if info.task != "segmentation":
        raise UserError(f"{model} is a model for {info.task}; the predictor takes segmentation models")
    stored = asdict(InferenceConfig.from_dict(info.inference))
    changed = override({"task": "segmentation", "eval": stored}, changes)
    assert isinstance(changed, SegmentationExperiment)
    return changed.eval


def _make_writable(out: "Path") -> None:
    """Make the folder for results; UserError, before the model is loaded, if nothing can be written there."""
    import os

    from densevit.errors import UserError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {out} is a file; give a folder for the results") from None
    except OSError as error:
        raise UserError(f"cannot make the folder {out} ({error.strerror}); give another --out") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"cannot write into {out} (no permission); give another --out")


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
