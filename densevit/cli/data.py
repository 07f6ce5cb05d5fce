"""`densevit data check`: read a data set and report what would make training go wrong; `stats`, `convert`, `list`."""

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("data", help="check a data set", description="Look at a data set before training.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="report pairs, sizes, unreadable files, label histogram, wrong ids",
        description="Read every image and mask. Exit code 1 if training on them would be wrong.",
    )
    _add_dataset_arguments(check)
    check.set_defaults(run=run)
    stats = actions.add_parser("stats", help="mean and standard deviation of each band, for data.mean and data.std")
    _add_dataset_arguments(stats)
    stats.set_defaults(run=run_stats)
    convert = actions.add_parser("convert", help="write the masks of a data set that is published without them")
    convert.add_argument("name", choices=("pascal_context",), help="data set")
    convert.add_argument("--root", required=True, metavar="PATH", help="its folder, VOCdevkit/VOC2010")
    convert.set_defaults(run=run_convert)
    actions.add_parser("list", help="list the data sets by name").set_defaults(run=run_list)


def _add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="NAME", help="data set, such as folder or camvid")
    parser.add_argument("--root", metavar="PATH", help="its folder")
    parser.add_argument("--split", default="train", help="part of the data (train)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="options",
        help="an option of the data set, such as val_ratio=0.2; may be repeated",
    )  # fmt: skip
    parser.add_argument("--format", choices=("text", "json"), default="text", help="output (text)")


def run_list(args: argparse.Namespace) -> int:
    from densevit.data.catalog import list_datasets

    print("\n".join(list_datasets()))
    return 0


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from densevit.data.base import SegmentationDataset
    from densevit.data.check import check_dataset
    from densevit.data.check_classification import check_images

    dataset = _dataset(args)
    console = Console(stderr=True)
    report: Any
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=_length(dataset))
        if isinstance(dataset, SegmentationDataset):
            report = check_dataset(dataset, progress=lambda done, _: bar.update(task, completed=done))
        else:
            report = check_images(dataset, progress=lambda done: bar.update(task, completed=done))
    if args.format == "json":
        print(json.dumps({"data": args.data, "split": args.split, **report.to_dict()}, indent=1))
    elif not isinstance(dataset, SegmentationDataset):
        _print_classes(report, title=f"{args.data}, {args.split}")
    else:
        _print_text(report, title=f"{args.data}, {args.split}")
    return 0 if report.ok else 1


def _dataset(args: argparse.Namespace) -> Any:
    """The data set, of segmentation or classification, that the arguments describe."""
    from densevit.data.base import SegmentationDataset
    from densevit.data.catalog import create_dataset, dataset_options
    from densevit.data.classification import ClassificationDataset
    from densevit.data.shards import Shards
    from densevit.errors import UserError

    options = parse_options(args.options)
    if "strict" in dataset_options(args.data):
        options.setdefault("strict", False)  # count the images without a mask instead of stopping at them
    dataset = create_dataset(args.data, root=args.root, split=args.split, **options)
    if not isinstance(dataset, (SegmentationDataset, ClassificationDataset, Shards)):
        raise UserError(f"data {args.action} reads segmentation and classification data sets; {args.data!r} is none")
    return dataset


def _length(dataset: Any) -> int | None:
    """Number of samples, None for a stream."""
    from densevit.data.shards import Shards

    return None if isinstance(dataset, Shards) else len(dataset)


def run_stats(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from densevit.data.stats import band_stats

    dataset = _dataset(args)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=_length(dataset))
        stats = band_stats(dataset, progress=lambda done: bar.update(task, completed=done))
    if args.format == "json":
        print(json.dumps(stats.to_dict(), indent=1))
        return 0
    for name in ("mean", "std", "min", "max"):
        print(f"{name}: [{', '.join(f'{value:.6g}' for value in getattr(stats, name))}]")
    return 0


def run_convert(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from densevit.data.pascal_context import convert_json

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("writing masks", total=None)
        count = convert_json(args.root, progress=lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{count} masks and the lists train.txt and val.txt written below {args.root}")
    return 0


def parse_options(items: list[str]) -> dict[str, Any]:
    """["val_ratio=0.2", "strict=false"] -> {"val_ratio": 0.2, "strict": False}; values are read as YAML."""
    import yaml

    from densevit.errors import UserError

    options = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not key:
            raise UserError(f"--set {item!r} is not of the form KEY=VALUE")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {item!r}: the value is not valid YAML; put it in quotes") from error
    return options


def _print_classes(report: Any, *, title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(title)}[/]: {report.num_images} images, {report.num_read} read")
    if report.smallest:
        (low_h, low_w), (high_h, high_w) = report.smallest, report.largest
        console.print(f"sizes (W x H): {low_w}x{low_h} to {high_w}x{high_h}")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("id", "class", "images"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for index, (name, count) in enumerate(zip(report.classes, report.images, strict=True)):
        table.add_row(str(index), escape(name), f"{count:,}")
    console.print(table)
    _print_findings(console, report)


def _print_text(report: Any, *, title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    sizes = report.image_sizes
    console.print(f"[bold]{escape(title)}[/]: {report.num_pairs} pairs, {report.num_read} read")
    if sizes:
        low, high, common = (f"{size[1]}x{size[0]}" for size in (sizes["min"], sizes["max"], sizes["most_common"]))
        console.print(f"sizes (W x H): {low} to {high}, most often {common} ({sizes['share']:.0%})")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("id", "class", "pixels", "share"):
        table.add_column(column, justify="left" if column == "class" else "right")
    total = max(sum(report.pixels), 1)
    for index, (name, count) in enumerate(zip(report.classes, report.pixels, strict=True)):
        table.add_row(str(index), escape(name), f"{count:,}", f"{count / total:.2%}" if count else "never seen")
    table.add_row("", "ignored", f"{report.ignored_pixels:,}", "")
    for id_, entry in sorted(report.outside.items()):
        table.add_row(str(id_), "outside the class list", f"{entry['pixels']:,}", "", style="red")
    console.print(table)
    _print_findings(console, report)


def _print_findings(console: Any, report: Any) -> None:
    """What a report of either kind found, and the verdict."""
    from rich.markup import escape

    for text in report.warnings:
        console.print(f"[yellow]warning[/] {escape(text)}")
    for text in report.problems:
        console.print(f"[red]problem[/] {escape(text)}")
    for item in report.unreadable[1:20]:
        console.print(f"        {escape(item['reason'])}")
    console.print("[green]ok[/]: nothing stands in the way of training" if report.ok else
                  f"[red]{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}[/]: "
                  "training on this data would be wrong")  # fmt: skip
