"""`densevit predict FILES --model RUN_OR_FILE --out DIR`: what a trained model sees in pictures and videos."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

DESCRIPTION = """\
Segment, detect or classify with a trained model; what is written depends on its task:

  densevit predict street.jpg --model runs/demo --out predictions
  densevit predict photos/ "more/*.png" --model runs/demo --out predictions --confidence
  densevit predict photos/ --model runs/demo --eval.mode=slide --eval.crop_size=[512,512]
  densevit predict ride.mp4 --model runs/demo --every 3
  densevit predict photos/ --model runs/mask_rcnn --score-threshold 0.7 --classes person,car

Segmentation: NAME_labels.png (classes as pixel values, palette inside) and NAME_overlay.png for each picture,
NAME_overlay.mp4 for each video. Detection: NAME_detections.png for each picture, detections.json for all of them.
Classification: predictions.csv. What cannot be read is reported and skipped.
Exit code: 0 all done, 1 something was skipped or damaged, 2 the call itself is wrong.
"""


def add_parser(subparsers: Any) -> None:
    from densevit.cli.fit import add_settings

    parser = subparsers.add_parser(
        "predict",
        help="segment, detect or classify with a trained model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURES", help="files, folders or quoted wildcards")
    parser.add_argument(
        "--model", metavar="RUN_OR_FILE", help="run folder, model file or hub name (default: the packaged model)"
    )
    parser.add_argument("--out", default="predictions", metavar="DIR", help="where results go (predictions)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; the default is a GPU if there is one")
    parser.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    parser.add_argument("--alpha", type=float, metavar="A", help="opacity of the colours drawn, 0 .. 1 (0.55; 0.5)")
    parser.add_argument(
        "--submission", metavar="SERVER", help="write ade20k, cityscapes or coco test-server files instead"
    )
    group = parser.add_argument_group("segmentation")
    group.add_argument("--probabilities", action="store_true", help="also NAME_probabilities.npy, (K, H, W) float16")
    group.add_argument("--confidence", action="store_true", help="also NAME_confidence.png, 255 is certain")
    group.add_argument(
        "--every", type=int, metavar="N", help="of a video, segment each Nth frame; labels stay between (1)"
    )
    group = parser.add_argument_group("detection")
    group.add_argument("--score-threshold", type=float, metavar="S", help="leave out objects below this score (0.5)")
    group.add_argument("--classes", metavar="NAME,NAME", help="only objects of these classes")
    group.add_argument(
        "--annotations", metavar="FILE", help="COCO json with the image ids for --submission coco (else: file names)"
    )
    group = parser.add_argument_group("classification")
    group.add_argument("--top", type=int, metavar="K", help="classes of a picture (5)")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from densevit.cli.predict_options import check_options
    from densevit.errors import UserError
    from densevit.predict_files import find_pictures
    from densevit.weights.default_model import default_model, describe
    from densevit.weights.pretrained import read_info

    out = Path(args.out)
    pictures = find_pictures(args.pictures, out=out)
    packaged = args.model is None
    if packaged:
        args.model = str(default_model())
    info = read_info(args.model)
    if packaged:
        print(f"no --model given; using {describe(info)}", file=sys.stderr)
    check_options(args, info.task)
    _make_writable(out)
    if info.task == "segmentation":
        from densevit.cli.segment import segment

        return segment(args, pictures, info, out=out)
    if info.task == "detection":
        from densevit.cli.detect import detect

        return detect(args, pictures, info, out=out)
    if info.task == "classification":
        from densevit.cli.classify import classify

        return classify(args, pictures, out=out)
    raise UserError(f"{args.model} is a model for {info.task}, which predict does not know")


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
