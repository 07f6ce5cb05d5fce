"""What `densevit data check` prints: a table for each kind of data set, and what was found."""

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_classification(report: Any, *, title: str) -> None:
    """A `ClassificationReport`."""
    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(title)}[/]: {report.num_images} images, {report.num_read} read")
    _print_range(console, report)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("id", "class", "images"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for index, (name, count) in enumerate(zip(report.classes, report.images, strict=True)):
        table.add_row(str(index), escape(name), f"{count:,}")
    console.print(table)
    _print_findings(console, report)


def print_segmentation(report: Any, *, title: str) -> None:
    """A `DataReport`."""
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


def print_detection(report: Any, *, title: str) -> None:
    """A `DetectionReport`."""
    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(title)}[/]: {report.num_images} images, {report.num_read} read")
    _print_range(console, report)
    console.print(
        f"objects: {sum(report.boxes):,}{' with masks' if report.with_masks else ''}, "
        f"{', '.join(f'{count:,} {name}' for name, count in report.sizes.items())}; "
        f"crowd regions: {report.crowd_regions:,}; images without object: {report.empty_images:,}; "
        f"most in one image: {report.most_objects:,}"
    )
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("id", "class", "boxes", "images"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for index, (name, boxes, images) in enumerate(zip(report.classes, report.boxes, report.images, strict=True)):
        table.add_row(str(index), escape(name), f"{boxes:,}", f"{images:,}")
    console.print(table)
    _print_findings(console, report)


def _print_range(console: Console, report: Any) -> None:
    """The smallest and the largest sides of a report that has them."""
    if report.smallest:
        (low_h, low_w), (high_h, high_w) = report.smallest, report.largest
        console.print(f"sizes (W x H): {low_w}x{low_h} to {high_w}x{high_h}")


def _print_findings(console: Console, report: Any) -> None:
    """What a report of any kind found, and the verdict."""
    for text in report.warnings:
        console.print(f"[yellow]warning[/] {escape(text)}")
    for text in report.problems:
        console.print(f"[red]problem[/] {escape(text)}")
    for item in report.unreadable[1:20]:
        console.print(f"        {escape(item['reason'])}")
    console.print("[green]ok[/]: nothing stands in the way of training" if report.ok else
                  f"[red]{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}[/]: "
                  "training on this data would be wrong")  # fmt: skip
