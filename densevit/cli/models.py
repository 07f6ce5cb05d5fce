"""`densevit models [PATTERN]`: the models that can be built by name."""

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "models",
        help="list the models",
        description="List the models by name. Any plain ViT that timm knows works "
        "too, setr_pup_NAME, and any of its encoders of several strides, upernet_NAME or semantic_fpn_NAME.",
    )
    parser.add_argument("pattern", nargs="?", default="*", help="shell wildcard such as 'setr_mla_*' (quote it)")
    parser.add_argument("--kind", help="task, such as segmentation; all when left out")
    parser.add_argument("--num-classes", type=int, default=150, metavar="K", help="classes for the sizes shown (150)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="output (table)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import track

    from densevit.errors import UserError, unknown_name
    from densevit.models.catalog import list_models

    wanted = args.pattern if any(sign in args.pattern for sign in "*?[") else f"*{args.pattern}*"
    names = list_models(wanted, kind=args.kind)
    if not names:
        if args.kind is not None and list_models(kind=args.kind):
            raise UserError(f"no model of kind {args.kind!r} matches {args.pattern!r}; `densevit models` lists all")
        raise unknown_name("model", args.pattern, list_models())
    quiet = Console(stderr=True)
    steps = track(names, "counting", console=quiet, transient=True, disable=not quiet.is_terminal)
    rows = [_row(name, args.num_classes) for name in steps]
    if args.format == "json":
        print(json.dumps(rows, indent=1))
    else:
        _print_table(rows)
    return 0


def _row(name: str, num_classes: int) -> dict[str, Any]:
    """Name, task and parameters, counted on a model without data."""
    import torch

    from densevit.benchmark.profile import count_parameters
    from densevit.models.catalog import create_model, model_kind

    with torch.device("meta"):
        model = create_model(name, num_classes=num_classes)
    params, params_with_auxiliary = count_parameters(model)
    return {
        "name": name,
        "kind": model_kind(name),
        "params": params,
        "params_with_auxiliary": params_with_auxiliary,
        "num_classes": num_classes,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    number = rows[0]["num_classes"]
    table = Table(box=box.SIMPLE_HEAD, caption=f"with {number} classes; --num-classes K for another number")
    table.add_column("model", no_wrap=True)
    table.add_column("kind")
    table.add_column("parameters, M", justify="right")
    table.add_column("with auxiliary", justify="right")
    for row in rows:
        millions = (f"{row[key] / 1e6:.1f}" for key in ("params", "params_with_auxiliary"))
        table.add_row(row["name"], row["kind"], *millions)
    Console().print(table)
