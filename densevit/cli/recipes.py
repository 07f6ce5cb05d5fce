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
        description="List the recipes beside the paper's mIoU or AP (%) and what was reached here; or print one as "
        "YAML.",
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
        print(markdown_table(rows), detection_markdown_table(rows), sep="\n\n")
    else:
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console.width = WIDE
        console.print(*_tables(rows, wide=console.width >= WIDE), sep="\n\n")
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
    from densevit.training.recipes_detection import COCO_ROWS

    rows = []
    for name in RECIPES:
        experiment, paper, coco = get_recipe(name), PAPER_ROWS.get(name), COCO_ROWS.get(name)
        rows.append(
            {
                "name": name,
                "task": experiment.task,
                "model": experiment.model.name,
                "data": experiment.data.name,
                "num_steps": experiment.train.num_steps,
                "paper": (paper and paper.source) or (coco and coco.source),
                "paper_miou": paper and paper.miou,
                "paper_miou_ms": paper and paper.miou_ms,
                "run_here_miou": RUN_HERE.get(name),
                "paper_box_ap": coco and coco.box_ap,
                "paper_mask_ap": coco and coco.mask_ap,
            }
        )
    return rows


SCORES = {"paper mIoU": "paper_miou", "multi-scale": "paper_miou_ms"}
DETECTION_SCORES = {"paper box AP": "paper_box_ap", "mask AP": "paper_mask_ap"}
"""Column -> entry of a row."""


def _tables(rows: list[dict[str, Any]], *, wide: bool) -> "list[Table]":
    """Detection has scores of its own."""
    detection = [row for row in rows if row["task"] == "detection"]
    others = [row for row in rows if row["task"] != "detection"]
    return [_table(others, SCORES, wide=wide), _table(detection, DETECTION_SCORES, wide=wide)]


def _table(rows: list[dict[str, Any]], scores: dict[str, str], *, wide: bool) -> "Table":
    """The recipes; data set and steps, which most names tell, only where there is room."""
    from rich.table import Table

    table = Table("recipe", *(["data", "steps"] if wide else []), box=None, pad_edge=False)
    for column in (*scores, "run here"):
        table.add_column(column, justify="right")
    for row in rows:
        paper = (_number(row[key], "-") for key in scores.values())
        here = _number(row["run_here_miou"], "no" if row["paper"] else "-")
        about = (row["data"], f"{row['num_steps']:,}") if wide else ()
        table.add_row(row["name"], *about, *paper, here)
    for each in table.columns:
        each.no_wrap = True
    return table


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The paper's rows of segmentation as the table of `docs/recipes.md`, mIoU in percent."""
    return _markdown(rows, {"mIoU there": "paper_miou", "multi-scale there": "paper_miou_ms"}, task="segmentation")


def detection_markdown_table(rows: list[dict[str, Any]]) -> str:
    """The paper's rows of detection likewise, AP in percent."""
    return _markdown(rows, {"box AP there": "paper_box_ap", "mask AP there": "paper_mask_ap"}, task="detection")


def _markdown(rows: list[dict[str, Any]], scores: dict[str, str], *, task: str) -> str:
    lines = [
        f"| recipe | steps | of the paper | {' | '.join(scores)} | run here |",
        f"|---|--:|---|{'--:|' * (len(scores) + 1)}",
    ]
    for row in rows:
        if row["paper"] and row["task"] == task:
            numbers = (_number(row[key], "-") for key in scores.values())
            here = _number(row["run_here_miou"], "no")
            cells = (f"`{row['name']}`", f"{row['num_steps']:,}", row["paper"], *numbers, here)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, missing: str) -> str:
    return missing if value is None else f"{value:.2f}"
