"""Training curves from the `metrics.csv` of Lightning's CSV logger: loss, scores and learning rate over steps."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densevit.errors import UserError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = tuple[list[int], list[float]]
"""Steps and the values logged at them."""

PANELS = {"loss": ("loss",), "score": ("miou", "iou", "acc", "top", "ap"), "learning rate": ("lr",)}
"""Panel title and the parts of a column's name that put it there, tried in this order."""


def read_metrics(path: Path | str) -> dict[str, Series]:
    """Read a CSV of columns by `step`; cells may be empty. UserError if it is missing or has no steps."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; curves are drawn from the metrics.csv of a training run") from error
    if not rows or "step" not in rows[0]:
        raise UserError(f"{path} holds no metrics by step; was the run stopped before its first log?")
    series: dict[str, Series] = {}
    for row in rows:
        for name, cell in row.items():
            if name not in ("step", "epoch", None) and cell and row["step"]:
                steps, values = series.setdefault(name, ([], []))
                steps.append(int(float(row["step"])))
                values.append(float(cell))
    return series


def panel_of(name: str) -> str | None:
    """The panel a logged name belongs to, None if to no one: `val/miou` -> "score", `lr-SGD/pg1` -> "learning rate"."""
    words = name.lower()
    for panel, parts in PANELS.items():
        if any(part in words for part in parts):
            return panel
    return None


def save_curves(metrics_csv: Path | str, path: Path | str) -> None:
    """Draw a run's curves side by side into a PNG: one panel for each kind of value that was logged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, dict[str, Series]] = {}
    for name, values in read_metrics(metrics_csv).items():
        panel = panel_of(name)
        if panel is not None:
            panels.setdefault(panel, {})[name] = values
    if not panels:
        raise UserError(f"{metrics_csv} holds neither a loss nor a score nor a learning rate")
    shown = [panel for panel in PANELS if panel in panels]
    figure = Figure(figsize=(5.2 * len(shown), 3.8), dpi=120)
    figure.set_layout_engine("constrained", wspace=0.06)
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _draw_panel(axes, panel, dict(sorted(panels[panel].items())))
    figure.savefig(path)


def save_comparison(runs: Mapping[str, Path | str], path: Path | str, *, columns: Sequence[str]) -> None:
    """Draw several runs into one PNG, a panel for each of `columns`: `runs` maps the legend's text to a metrics.csv.

    UserError where a run has not logged a column.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    read = {label: read_metrics(file) for label, file in runs.items()}
    figure = Figure(figsize=(5.2 * len(columns), 3.8), dpi=120)
    figure.set_layout_engine("constrained", wspace=0.06)
    FigureCanvasAgg(figure)
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        for label, series in read.items():
            if column not in series:
                raise unknown_name(f"column of {runs[label]}", column, series)
        _draw_panel(axes, column, {label: series[column] for label, series in read.items()})
    figure.savefig(path)


def _draw_panel(axes: "Axes", title: str, curves: Mapping[str, Series]) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, (steps, values) in curves.items():
        many = "loss" in title and len(steps) > 60
        marker = "o" if len(steps) <= 30 else None
        (line,) = axes.plot(steps, values, linewidth=1 if many else 1.6, alpha=0.3 if many else 1, marker=marker, ms=3)
        if many:  # noisy per-step values: their running mean on top
            axes.plot(steps, _smooth(values), color=line.get_color(), linewidth=1.8, label=name)
        else:
            line.set_label(name)
    axes.set_title(title, fontsize=12)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(color="#e4e6ea", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if title == "score" or panel_of(title) == "score":
        axes.set_ylim(0, max(1.0, *(max(values) for _, values in curves.values())))
    axes.legend(frameon=False, fontsize=9)


def _smooth(values: list[float]) -> list[float]:
    """Centred running mean over a twentieth of the curve, shorter at its ends: smooth without lagging behind."""
    reach = max(len(values) // 40, 1)
    parts = (values[max(i - reach, 0) : i + reach + 1] for i in range(len(values)))
    return [sum(part) / len(part) for part in parts]
