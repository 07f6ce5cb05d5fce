"""`densevit recipes`: named experiments beside the paper's numbers, and their settings as YAML."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 110
"""Columns of the terminal for the whole table."""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "recipes",
        help="list named experiments, or print one as YAML",
        description="List the recipes beside the paper's mIoU (%) and what was reached here; or print one as YAML.",
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print every setting of this recipe (for --config)")
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text", help="output (text)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.name:
        print(_settings(args.name, as_json=args.format == "json"), end="")
        return 0
    rows = _rows()
    if args.format == "json":
        print(json.dumps(rows, indent=2))
    elif args.format == "markdown":
        print(markdown_table(rows))
    else:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console.width = WIDE
        console.print(_table(rows, wide=console.width >= WIDE))
    return 0


def _settings(name: str, *, as_json: bool) -> str:
    import yaml

    from densevit.training.recipes import get_recipe
    from densevit.training.settings import experiment_to_dict

    values = experiment_to_dict(get_recipe(name))
    if as_json:
        return json.dumps(values, indent=2) + "\n"
    return str(yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=100))


def _rows() -> list[dict[str, Any]]:
    from densevit.training.paper_recipes import PAPER_ROWS, RUN_HERE
    from densevit.training.recipes import RECIPES, get_recipe

    rows = []
    for name in RECIPES:
        experiment, paper = get_recipe(name), PAPER_ROWS.get(name)
        rows.append(
            {
                "name": name,
                "model": experiment.model.name,
                "data": experiment.data.name,
                "num_steps": experiment.train.num_steps,
                "paper": paper and paper.source,
                "paper_miou": paper and paper.miou,
                "paper_miou_ms": paper and paper.miou_ms,
                "run_here_miou": RUN_HERE.get(name),
            }
        )
    return rows


def _table(rows: list[dict[str, Any]], *, wide: bool) -> "Table":
    """The recipes; data set and steps, which most names tell, only where there is room."""
    from rich.table import Table

    table = Table("recipe", *(["data", "steps"] if wide else []), box=None, pad_edge=False)
    for column in ("paper mIoU", "multi-scale", "run here"):
        table.add_column(column, justify="right")
    for row in rows:
        paper = (_number(row[key], "-") for key in ("paper_miou", "paper_miou_ms"))
        here = _number(row["run_here_miou"], "no" if row["paper"] else "-")
        about = (row["data"], f"{row['num_steps']:,}") if wide else ()
        table.add_row(row["name"], *about, *paper, here)
    for each in table.columns:
        each.no_wrap = True
    return table


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows of the paper as the table of `docs/recipes.md`, mIoU in percent."""
    lines = [
        "| recipe | steps | of the paper | mIoU there | multi-scale there | run here |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for row in rows:
        if row["paper"]:
            scores = (_number(row[key], "-") for key in ("paper_miou", "paper_miou_ms"))
            here = _number(row["run_here_miou"], "no")
            cells = (f"`{row['name']}`", f"{row['num_steps']:,}", row["paper"], *scores, here)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.2f}"
