"""`densevit validate`: score a trained model."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from densevit.weights.pretrained import ModelInfo

DESCRIPTION = """\
Score a trained model on its validation data, or on other data and with other settings:

  densevit validate --model runs/demo
  densevit validate --model runs/camvid --eval.mode=slide --eval.crop_size=[360,360] --eval.stride=[240,240]
  densevit validate --model runs/camvid --eval.scales=[0.75,1,1.25] --eval.flip=true
  densevit validate --model runs/mask_rcnn --data.root=coco --eval.short_side=600

Settings are those of `data`, `eval` and train.precision. Detection is scored as COCO does: AP and AR.
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
    parser.add_argument("--format", choices=("text", "json"), default="text", help="output (text)")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from rich.console import Console
    from rich.progress import track

    from densevit.cli.fit import overrides
    from densevit.inference.device import choose_device
    from densevit.training.evaluate import evaluate
    from densevit.training.fit import write_scores
    from densevit.training.settings import override
    from densevit.weights.pretrained import load_pretrained

    device = choose_device(args.device)
    model, info = load_pretrained(args.model)
    experiment = override(info.training or _settings_of(info), overrides(args))
    check_used(overrides(args))
    console = Console(stderr=True)
    quiet = not console.is_terminal
    scores = evaluate(
        model,
        info,
        experiment,
        device=device,
        track=lambda batches, total: track(batches, "validating", total=total, console=console, disable=quiet),
    )
    source = Path(args.model)
    folder = source if source.is_dir() else source.parent if source.is_file() else Path()
    out = Path(args.out) if args.out else folder / "validation"
    write_scores(scores, out)
    if args.format == "json":
        print(json.dumps(scores.to_dict()))
    else:
        print(scores.table())
        print(scores.baseline)
        print(f"scores: {out}")
    return 0


USED = ("data.", "eval.", "train.precision")
"""Settings that a validation depends on: these, and those below them."""


def check_used(changes: "Sequence[str]") -> None:
    """UserError for a setting, of `--KEY=VALUE` arguments, that a validation would silently leave out."""
    from densevit.errors import UserError

    for change in changes:
        key = change.removeprefix("--").partition("=")[0]
        if change.startswith("--") and not key.startswith(USED):
            raise UserError(f"{key} changes nothing in a validation, which uses data.*, eval.* and train.precision")


def _settings_of(info: "ModelInfo") -> dict[str, Any]:
    """Settings for a model that was not trained here: the defaults with its own normalisation and evaluation."""
    data = {"mean": info.mean, "std": info.std}
    if info.task == "classification":
        return {"task": info.task, "data": data | dict(info.inference)}
    return {"task": info.task, "data": data, "eval": dict(info.inference)}
