"""Top-1 and top-5 accuracy over a data set, counted exactly, with the confusion matrix of the top-1 classes.

Shapes: N images, K classes. A class's rank is the number of classes with a higher score, ties in favour of the lower
index, so that the counts depend on no sorting algorithm.
"""

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from densevit.errors import UserError

MAX_ROWS = 30
"""Up to so many classes the table has a row for each; beyond, the worst ones."""


class ClassificationScores(NamedTuple):
    """What `TopK.compute()` gives. Fractions in 0 .. 1, nan where undefined; K classes in their order."""

    top1: float
    """Share of images whose class has the highest score."""
    top5: float
    """Share of images whose class is among the five highest; 1 for five classes or fewer."""
    mean_accuracy: float
    """Mean of `accuracy` over the classes that have one."""
    accuracy: tuple[float, ...]
    """Correct share of each class's images; nan for a class without images."""
    support: tuple[int, ...]
    """Images of each class."""
    top5_hits: int
    """Images counted in `top5`."""
    confusion: NDArray[np.int64]
    """(K, K) image counts, rows true, columns predicted."""
    classes: tuple[str, ...]
    """Class names."""

    @classmethod
    def from_counts(
        cls, *, confusion: NDArray[np.int64], top5_hits: Any, classes: Sequence[str]
    ) -> "ClassificationScores":
        """Score a (K, K) matrix of image counts, rows true and columns predicted, and the number of top-5 hits."""
        if confusion.shape != (len(classes), len(classes)):
            raise ValueError(f"{len(classes)} classes need a confusion matrix of that side, not {confusion.shape}")
        hits, support = np.diag(confusion), confusion.sum(axis=1)
        accuracy = np.divide(hits, support, out=np.full(len(classes), np.nan), where=support > 0)
        total = int(support.sum())
        known = accuracy[~np.isnan(accuracy)]
        return cls(
            top1=int(hits.sum()) / total if total else math.nan,
            top5=int(top5_hits) / total if total else math.nan,
            mean_accuracy=float(known.mean()) if known.size else math.nan,
            accuracy=tuple(accuracy.tolist()),
            support=tuple(support.tolist()),
            top5_hits=int(top5_hits),
            confusion=confusion,
            classes=tuple(classes),
        )

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """All that the scores are made of."""
        return {"confusion": self.confusion, "top5_hits": np.asarray(self.top5_hits)}

    @property
    def headline(self) -> float:
        """The score by which models are compared."""
        return self.top1

    @property
    def baseline(self) -> str:
        """What a constant guess would have had, as a sentence."""
        return f"always predicting the most frequent class has top-1 {100 * self.majority_top1:.2f} %"

    @property
    def majority_top1(self) -> float:
        """Top-1 accuracy of always answering with the most frequent class: a floor to compare with."""
        total = sum(self.support)
        return max(self.support) / total if total else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers without the matrix, ready for JSON: nan becomes None, the classes a list of one dict each."""
        rows = zip(self.classes, self.accuracy, self.support, strict=True)
        return {
            "top1": _or_none(self.top1),
            "top5": _or_none(self.top5),
            "mean_accuracy": _or_none(self.mean_accuracy),
            "num_images": sum(self.support),
            "classes": [{"name": n, "accuracy": _or_none(a), "support": s} for n, a, s in rows],
        }

    def table(self) -> str:
        """The classes, the worst first where there are many, and the summary below them, as text in percent."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        seen = [index for index, support in enumerate(self.support) if support]
        many = len(self.classes) > MAX_ROWS
        shown = sorted(seen, key=lambda index: self.accuracy[index])[:10] if many else range(len(self.classes))
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("worst classes" if many else "class")
        table.add_column("accuracy %", justify="right")
        table.add_column("images", justify="right")
        table.add_column("most often taken for")
        for index in shown:
            table.add_row(
                self.classes[index],
                _percent(self.accuracy[index]),
                f"{self.support[index]:,}",
                self._confused_with(index),
            )
        text = io.StringIO()
        console = Console(file=text, width=100, markup=False, highlight=False)
        console.print(table)
        console.print(
            f"top-1 {_percent(self.top1)} %   top-5 {_percent(self.top5)} %   "
            f"mean over classes {_percent(self.mean_accuracy)} %   {sum(self.support):,} images"
        )
        return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())

    def _confused_with(self, index: int) -> str:
        others = self.confusion[index].copy()
        others[index] = 0
        worst = int(others.argmax())
        return f"{self.classes[worst]} ({100 * others[worst] / self.support[index]:.0f} %)" if others[worst] else "-"


class TopK(Metric):
    """Streaming classification scores; one instance per evaluation, also as a part of a LightningModule.

    scores = TopK(classes)
    scores.update(logits, target)     # for every batch
    scores.compute().top1

    Across devices the counts are added.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor
    top5_hits: Tensor

    def __init__(self, classes: Sequence[str] | int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = tuple(map(str, range(classes)) if isinstance(classes, int) else classes)
        K = len(self.classes)
        if K < 1:
            raise UserError("top-k accuracy needs at least one class")
        self.add_state("confusion", torch.zeros(K, K, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("top5_hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count one batch: scores (N, K), true classes (N,). UserError for a target outside 0 .. K-1."""
        K = len(self.classes)
        if logits.shape != (len(target), K):
            raise ValueError(f"logits are {tuple(logits.shape)}, but {len(target)} targets of {K} classes were given")
        if not len(target):
            return
        lowest, highest = int(target.min()), int(target.max())
        if lowest < 0 or highest >= K:
            wrong = lowest if lowest < 0 else highest
            raise UserError(f"the data have class {wrong}, but with {K} classes a class is 0 .. {K - 1}")
        if logits.isnan().any():
            raise UserError("the model's scores are not numbers (nan); its weights are damaged or its input is")
        target = target.to(logits.device)
        self.top5_hits += (ranks(logits, target) < 5).sum().to(self.top5_hits.device)
        predicted = logits.argmax(dim=1)  # of equal scores the first
        cells = (target.to(self.confusion.device), predicted.to(self.confusion.device))
        self.confusion.index_put_(cells, torch.ones_like(cells[0]), accumulate=True)

    def compute(self) -> ClassificationScores:
        """Scores of everything counted so far."""
        return ClassificationScores.from_counts(
            confusion=self.confusion.cpu().numpy(), top5_hits=int(self.top5_hits), classes=self.classes
        )


def ranks(logits: Tensor, target: Tensor) -> Tensor:
    """How many classes come before the true one: (N, K), (N,) -> (N,) int64."""
    own = logits.gather(1, target[:, None])
    before = torch.arange(logits.shape[1], device=logits.device) < target[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(dim=1)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
