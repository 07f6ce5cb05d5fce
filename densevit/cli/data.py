"""`densevit data check`: read a data set and report what would make training go wrong; `stats`, `convert`, `list`."""

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("data", help="check a data set", description="Look at a data set before training.")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="report images, sizes, unreadable files, objects or pixels of each class, wrong labels",
        description="Read every image and its labels. Exit code 1 if training on them would be wrong.",
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

    from densevit.cli.data_tables import print_classification, print_detection, print_segmentation
    from densevit.data.base import SegmentationDataset
    from densevit.data.check import check_dataset
    from densevit.data.check_classification import check_images
    from densevit.data.check_detection import check_objects
    from densevit.data.detection import DetectionDataset

    # count the images without a mask, the faulty annotations ... instead of stopping at them, and look at the masks
    dataset = _dataset(args, strict=False, masks=None)
    console = Console(stderr=True)
    report: Any
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=_length(dataset))

        def progress(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done)

        if isinstance(dataset, SegmentationDataset):
            report, show = check_dataset(dataset, progress=progress), print_segmentation
        elif isinstance(dataset, DetectionDataset):
            report, show = check_objects(dataset, progress=progress), print_detection
        else:
            report, show = check_images(dataset, progress=progress), print_classification
    if args.format == "json":
        print(json.dumps({"data": args.data, "split": args.split, **report.to_dict()}, indent=1))
    else:
        show(report, title=f"{args.data}, {args.split}")
    return 0 if report.ok else 1


def _dataset(args: argparse.Namespace, **defaults: Any) -> Any:
    """The data set that the arguments describe; `defaults` are for those options that it has and nobody has set."""
    from densevit.data.base import SegmentationDataset
    from densevit.data.catalog import create_dataset, dataset_options
    from densevit.data.classification import ClassificationDataset
    from densevit.data.detection import DetectionDataset
    from densevit.data.shards import Shards
    from densevit.errors import UserError

    known = dataset_options(args.data)
    options = {key: value for key, value in defaults.items() if key in known} | parse_options(args.options)
    dataset = create_dataset(args.data, root=args.root, split=args.split, **options)
    if not isinstance(dataset, (SegmentationDataset, ClassificationDataset, DetectionDataset, Shards)):
        raise UserError(f"data {args.action} does not read the samples of {args.data!r}; choose another data set")
    return dataset


def _length(dataset: Any) -> int | None:
    """Number of samples, None for a stream."""
    from densevit.data.shards import Shards

    return None if isinstance(dataset, Shards) else len(dataset)


def run_stats(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from densevit.data.stats import band_stats

    dataset = _dataset(args, strict=False)
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
