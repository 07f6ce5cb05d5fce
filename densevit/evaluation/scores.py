"""Segmentation scores from a confusion matrix, as numbers, JSON, a table and CSV.

Conventions: IoU = intersection / union and accuracy = intersection / labelled pixels, per class over the whole
set. A class in neither the masks nor the predictions has nan and is left out of the means; one that is predicted
but never labelled has IoU 0, and no accuracy.
"""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from densevit.errors import UserError


class SegmentationScores(NamedTuple):
    """What `MeanIoU.compute()` gives. Fractions in 0 .. 1, nan where undefined; K classes in their order.

    A named tuple rather than a dataclass: torchmetrics walks through what a metric returns and refuses frozen
    dataclasses.
    """

    mean_iou: float
    """Mean of `iou` over the classes that have one."""
    pixel_accuracy: float
    """Correct share of all labelled pixels."""
    mean_accuracy: float
    """Mean of `accuracy` over the classes that have one."""
    iou: tuple[float, ...]
    """Intersection over union of each class."""
    accuracy: tuple[float, ...]
    """Correct share of each class's labelled pixels (its recall)."""
    support: tuple[int, ...]
    """Labelled pixels of each class."""
    confusion: NDArray[np.int64]
    """(K, K) pixel counts, rows true, columns predicted."""
    classes: tuple[str, ...]
    """Class names."""

    @classmethod
    def from_confusion(cls, confusion: NDArray[np.int64], *, classes: Sequence[str]) -> "SegmentationScores":
        """Score a (K, K) matrix of pixel counts, rows true and columns predicted."""
        if confusion.shape != (len(classes), len(classes)):
            raise ValueError(
                f"{len(classes)} classes need a square confusion matrix of that side, not {confusion.shape}"
            )
        hits, support = np.diag(confusion), confusion.sum(axis=1)
        union = support + confusion.sum(axis=0) - hits
        iou, accuracy = _ratio(hits, union), _ratio(hits, support)
        return cls(
            mean_iou=_mean(iou),
            pixel_accuracy=float(_ratio(hits.sum(), support.sum())),
            mean_accuracy=_mean(accuracy),
            iou=tuple(iou.tolist()),
            accuracy=tuple(accuracy.tolist()),
            support=tuple(support.tolist()),
            confusion=confusion,
            classes=tuple(classes),
        )

    @classmethod
    def from_counts(cls, *, confusion: NDArray[np.int64], classes: Sequence[str]) -> "SegmentationScores":
        """The scores again from their `counts()`."""
        return cls.from_confusion(confusion, classes=classes)

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """All that the scores are made of."""
        return {"confusion": self.confusion}

    @property
    def headline(self) -> float:
        """The score by which models are compared."""
        return self.mean_iou

    @property
    def baseline(self) -> str:
        """What a constant guess would have had, as a sentence."""
        return f"always predicting the most frequent class has mIoU {100 * self.majority_mean_iou:.2f} %"

    @property
    def majority_mean_iou(self) -> float:
        """Mean IoU that always predicting the most frequent class would have had: a floor to compare with."""
        support = np.asarray(self.support)
        guess = np.zeros_like(self.confusion)
        guess[:, int(support.argmax())] = support
        return _mean(_ratio(np.diag(guess), support + guess.sum(axis=0) - np.diag(guess)))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON: nan becomes None, the classes a list of one dict each."""
        rows = zip(self.classes, self.iou, self.accuracy, self.support, strict=True)
        return {
            "mean_iou": _or_none(self.mean_iou),
            "pixel_accuracy": _or_none(self.pixel_accuracy),
            "mean_accuracy": _or_none(self.mean_accuracy),
            "classes": [
                {"name": name, "iou": _or_none(iou), "accuracy": _or_none(accuracy), "support": support}
                for name, iou, accuracy, support in rows
            ],
            "confusion": self.confusion.tolist(),
        }

    def table(self) -> str:
        """Per-class table and the summary below it, as text in percent; classes without a value show a dash."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, show_footer=True)
        table.add_column("class", "mean")
        table.add_column("IoU %", _percent(self.mean_iou), justify="right")
        table.add_column("accuracy %", _percent(self.mean_accuracy), justify="right")
        table.add_column("pixels", f"{sum(self.support):,}", justify="right")
        for name, iou, accuracy, support in zip(self.classes, self.iou, self.accuracy, self.support, strict=True):
            table.add_row(name, _percent(iou), _percent(accuracy), f"{support:,}")
        text = io.StringIO()
        console = Console(file=text, width=100, markup=False, highlight=False)
        console.print(table)
        console.print(
            f"mIoU {_percent(self.mean_iou)} %   pixel accuracy {_percent(self.pixel_accuracy)} %   "
            f"mean accuracy {_percent(self.mean_accuracy)} %"
        )
        return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


class HasConfusion(Protocol):
    """Scores of any task that come from a confusion matrix."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def confusion(self) -> NDArray[np.int64]: ...


def write_confusion_csv(scores: HasConfusion, path: Path | str) -> None:
    """Write the counts as CSV: a row for each true class, a column for each predicted one, names on both."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *scores.classes])
        for name, counts in zip(scores.classes, scores.confusion.tolist(), strict=True):
            writer.writerow([name, *counts])


def read_confusion_csv(path: Path | str) -> SegmentationScores:
    """Scores again from a file of `write_confusion_csv`. UserError if it is not one."""
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    try:
        confusion = np.array([[int(count) for count in row[1:]] for row in rows], dtype=np.int64)
        return SegmentationScores.from_confusion(confusion, classes=header[1:])
    except ValueError as error:
        raise UserError(f"{path} is not a confusion matrix written by densevit: {error}") from error


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    """part / whole in float64, nan where the whole is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean without nan; nan if nothing else is there."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
