"""Detection scores as COCO defines them: numbers, JSON and a table.

Average precision (AP) is the mean of the precisions at 101 recalls, averaged over IoU thresholds 0.50, 0.55 .. 0.95
and over the classes; average recall (AR) the highest recall at so many detections per image, averaged alike. Objects
are small below 32^2 pixels, large above 96^2. What has no object in the truth has nan and is left out of the means.

Shapes: T 10 thresholds, K classes, A 4 sizes (all, small, medium, large), M 3 numbers of detections (1, 10, 100).
"""

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_ROWS = 100
"""Up to so many classes the table has a row for each; beyond, the worst ones."""
WORST_ROWS = 10

SUMMARY = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100",
           "ar_small", "ar_medium", "ar_large")  # fmt: skip
"""The twelve numbers of COCO, in its order."""
_TITLES = ("AP", "AP50", "AP75", "AP S", "AP M", "AP L", "AR 1", "AR 10", "AR 100", "AR S", "AR M", "AR L")


class PrecisionRecall(NamedTuple):
    """How well boxes, or masks, were found. Fractions in 0 .. 1, nan where there is nothing to find."""

    precision: NDArray[np.float64]
    """(T, K, A) mean precision over the recalls, at most 100 detections per image."""
    recall: NDArray[np.float64]
    """(T, K, A, M) highest recall."""

    def summary(self) -> dict[str, float]:
        """COCO's twelve numbers by the names of `SUMMARY`."""
        p, r = self.precision, self.recall
        values = (p[..., 0], p[0, :, 0], p[5, :, 0], p[..., 1], p[..., 2], p[..., 3],
                  r[..., 0, 0], r[..., 0, 1], r[..., 0, 2], r[..., 1, 2], r[..., 2, 2], r[..., 3, 2])  # fmt: skip
        return {name: _mean(value) for name, value in zip(SUMMARY, values, strict=True)}

    @property
    def ap(self) -> float:
        """AP of all classes, thresholds and sizes."""
        return _mean(self.precision[..., 0])

    @property
    def class_ap(self) -> tuple[float, ...]:
        """AP of each class."""
        return tuple(_mean(each) for each in self.precision[..., 0].T)

    @property
    def class_ap50(self) -> tuple[float, ...]:
        """AP of each class at IoU 0.5."""
        return tuple(float(each) for each in self.precision[0, :, 0])


class DetectionScores(NamedTuple):
    """What `CocoMetric.compute()` gives."""

    box: PrecisionRecall
    """Scores of the boxes."""
    mask: PrecisionRecall | None
    """Scores of the masks; None if there are none."""
    support: tuple[int, ...]
    """Objects of each class in the truth, crowd regions left out."""
    num_images: int
    """Images scored."""
    classes: tuple[str, ...]
    """Class names."""

    @classmethod
    def from_counts(
        cls,
        *,
        box_precision: NDArray[np.float64],
        box_recall: NDArray[np.float64],
        support: NDArray[np.int64],
        num_images: NDArray[np.int64] | int,
        classes: Sequence[str],
        mask_precision: NDArray[np.float64] | None = None,
        mask_recall: NDArray[np.float64] | None = None,
    ) -> "DetectionScores":
        """The scores again from their `counts()`."""
        mask = None
        if mask_precision is not None and mask_recall is not None:
            mask = PrecisionRecall(mask_precision, mask_recall)
        for part in (box_precision, support[None], *([] if mask is None else [mask.precision])):
            if part.shape[1] != len(classes):
                raise ValueError(f"{len(classes)} classes need as many columns, not {part.shape}")
        return cls(
            box=PrecisionRecall(box_precision, box_recall),
            mask=mask,
            support=tuple(int(count) for count in support),
            num_images=int(num_images),
            classes=tuple(classes),
        )

    def counts(self) -> dict[str, NDArray[Any]]:
        """All that the scores are made of."""
        parts = {"box": self.box} | ({} if self.mask is None else {"mask": self.mask})
        arrays = {f"{kind}_{name}": array for kind, part in parts.items() for name, array in part._asdict().items()}
        return arrays | {"support": np.asarray(self.support), "num_images": np.asarray(self.num_images)}

    @property
    def headline(self) -> float:
        """The score by which models are compared: AP of the masks where there are masks, else of the boxes."""
        return (self.mask or self.box).ap

    @property
    def baseline(self) -> str:
        """What a constant guess would have had, as a sentence."""
        there = sum(count > 0 for count in self.support)
        return (
            f"finding nothing has AP 0.00 %; to be found: {_count(sum(self.support), 'object')} "
            f"of {_count(there, 'class')} in {_count(self.num_images, 'image')}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON: nan becomes None, the classes a list of one dict each."""
        parts = {"box": self.box} | ({} if self.mask is None else {"mask": self.mask})
        rows: list[dict[str, Any]] = [
            {"name": name, "support": support} for name, support in zip(self.classes, self.support, strict=True)
        ]
        for kind, part in parts.items():
            for row, ap, ap50 in zip(rows, part.class_ap, part.class_ap50, strict=True):
                row |= {f"{kind}_ap": _or_none(ap), f"{kind}_ap50": _or_none(ap50)}
        summaries = {
            kind: {name: _or_none(value) for name, value in part.summary().items()} for kind, part in parts.items()
        }
        return {**summaries, "num_images": self.num_images, "num_objects": sum(self.support), "classes": rows}

    def table(self) -> str:
        """The classes, the worst alone where there are very many, and COCO's twelve numbers below, in percent."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        parts = [("box", self.box), *([] if self.mask is None else [("mask", self.mask)])]
        many = len(self.classes) > MAX_ROWS
        classes = Table(box=box.SIMPLE_HEAD)
        classes.add_column("worst classes" if many else "class")
        for kind, _ in parts:
            classes.add_column(f"{kind} AP", justify="right")
            classes.add_column(f"{kind} AP50", justify="right")
        classes.add_column("objects", justify="right")
        values = [(part.class_ap, part.class_ap50) for _, part in parts]
        for k in self._worst() if many else range(len(self.classes)):
            cells = [_percent(each[k]) for pair in values for each in pair]
            classes.add_row(self.classes[k], *cells, f"{self.support[k]:,}")
        summary = Table(box=box.SIMPLE_HEAD)
        for title in ("%", *_TITLES):
            summary.add_column(title, justify="left" if title == "%" else "right")
        for kind, part in parts:
            summary.add_row(kind, *(_percent(value) for value in part.summary().values()))
        text = io.StringIO()
        console = Console(file=text, width=110, markup=False, highlight=False)
        console.print(classes)
        console.print(summary)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        return "\n".join(line for line in lines if line)

    def _worst(self) -> list[int]:
        """The classes of the lowest AP among those with objects."""
        ap = (self.mask or self.box).class_ap
        seen = [k for k, count in enumerate(self.support) if count]
        return sorted(seen, key=lambda k: ap[k])[:WORST_ROWS]


def _mean(values: NDArray[np.float64]) -> float:
    """Mean without nan; nan if nothing else is there."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _count(number: int, noun: str) -> str:
    """ "1 class", "2 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
