"""A confusion matrix as a picture: rows true, columns predicted, each row in percent of its class."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST_WITH_NUMBERS = 24
"""Up to so many classes every cell shows its percentage."""


def save_confusion(confusion: NDArray[np.integer], path: Path | str, *, classes: Sequence[str]) -> None:
    """Draw (K, K) counts of pixels or images, legible for 2 or 150 classes, as a PNG or what the suffix of `path` says.

    Rows of classes that are nowhere true are left blank.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    K = len(classes)
    totals = confusion.sum(axis=1, keepdims=True)
    percent = np.divide(100.0 * confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)
    cell_inches, text_points = _scale(K)
    side = cell_inches * K
    title_points = 12 if K <= LARGEST_WITH_NUMBERS else 18
    names = [name if len(name) <= 28 else name[:27] + "…" for name in classes]
    margin = 0.5 + max(map(len, names)) * text_points / 72 * 0.65
    bar = 1.1
    width, height = max(side + margin + bar, 4.0), side + margin + 0.7
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, aspect="equal", interpolation="nearest")
    axes.set_xticks(range(K), names, rotation=90, fontsize=text_points)
    axes.set_yticks(range(K), names, fontsize=text_points)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted", fontsize=title_points - 1)
    axes.set_ylabel("true", fontsize=title_points - 1)
    axes.set_title("Confusion, % of each true class", fontsize=title_points)
    for spine in axes.spines.values():
        spine.set_visible(False)
    _grid_lines(axes, K)
    if K <= LARGEST_WITH_NUMBERS:
        _write_numbers(axes, percent, text_points)
    bar_height = min(0.9 * side, 4.0)
    bar_axes = figure.add_axes(
        ((margin + side + 0.2) / width, (margin + (side - bar_height) / 2) / height, 0.16 / width, bar_height / height)
    )
    figure.colorbar(picture, cax=bar_axes).outline.set_visible(False)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)


def _scale(num_classes: int) -> tuple[float, float]:
    """Inches of a cell and points of its text: roomy for a few classes, just legible for hundreds."""
    if num_classes <= 4:
        return 0.85, 11
    if num_classes <= LARGEST_WITH_NUMBERS:
        return 0.48, 9
    return 0.125, 6


def _grid_lines(axes: "Axes", num_classes: int) -> None:
    edges = np.arange(-0.5, num_classes)
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#e4e6ea", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _write_numbers(axes: "Axes", percent: NDArray[np.float64], text_points: float) -> None:
    for (row, column), value in np.ndenumerate(percent):
        if not np.isnan(value) and value >= 0.5:
            colour = "white" if value > 55 else "#303540"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=text_points)
