"""`densevit validate`: score a trained model."""

import argparse
from typing import Any

DESCRIPTION = """\
Score a trained model on its validation data, or on other data and with other settings:

  densevit validate --model runs/demo
  densevit validate --model runs/camvid --eval.mode=slide --eval.crop_size=[360,360] --eval.stride=[240,240]
  densevit validate --model runs/camvid --eval.scales=[0.75,1,1.25] --eval.flip=true
"""


def add_parser(subparsers: Any) -> None:
    from densevit.cli.fit import add_settings

    parser = subparsers.add_parser(
        "validate",
        help="score a trained model",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, metavar="RUN_OR_FILE", help="run folder, model file or hub name")
    parser.add_argument("--out", metavar="DIR", help="where scores go (default: RUN/validation, or validation/)")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    import torch
    from rich.console import Console
    from rich.progress import track

    from densevit.cli.fit import overrides
    from densevit.training.evaluate import evaluate
    from densevit.training.fit import write_scores
    from densevit.training.settings import override
    from densevit.weights.pretrained import load_pretrained

    model, info = load_pretrained(args.model)
    experiment = override(info.training, overrides(args))
    console = Console(stderr=True)
    scores = evaluate(
        model,
        info,
        experiment,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        track=lambda batches, total: track(batches, "validating", total=total, console=console),
    )
    source = Path(args.model)
    out = Path(args.out) if args.out else (source if source.is_dir() else source.parent) / "validation"
    write_scores(scores, out)
    if args.format == "json":
        print(json.dumps(scores.to_dict()))
    else:
        print(scores.table())
        print(f"always predicting the most frequent class has mIoU {100 * scores.majority_mean_iou:.2f} %")
        print(f"scores and confusion matrix: {out}")
    return 0
