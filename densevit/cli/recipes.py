"""`densevit recipes`: named experiments, and their settings as YAML."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("recipes", help="list named experiments, or print one as YAML")
    parser.add_argument("name", nargs="?", metavar="NAME", help="print every setting of this recipe (for --config)")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json

    import yaml
    from rich.console import Console
    from rich.table import Table

    from densevit.training.recipes import RECIPES, get_recipe
    from densevit.training.settings import experiment_to_dict

    if args.name:
        values = experiment_to_dict(get_recipe(args.name))
        as_yaml = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100)
        print(json.dumps(values, indent=2) if args.format == "json" else as_yaml, end="")
        return 0
    rows = [(name, get_recipe(name)) for name in RECIPES]
    if args.format == "json":
        print(
            json.dumps(
                [
                    {"name": n, "model": e.model.name, "data": e.data.name, "num_steps": e.train.num_steps}
                    for n, e in rows
                ],
                indent=2,
            )
        )
        return 0
    table = Table("recipe", "model", "data", "steps", box=None)
    for name, e in rows:
        table.add_row(name, e.model.name, e.data.name, f"{e.train.num_steps:,}")
    Console().print(table)
    return 0
