"""COCO's scores of boxes and masks over a data set, by faster-coco-eval; what the numbers are: `coco_scores.py`.

    metric = CocoMetric(classes, with_masks=True)
    metric.update(predictions, truths, image_ids, sizes)     # for every batch
    metric.compute().headline

Predictions are dicts of "boxes" (n, 4) XYXY, "labels" (n,) 0 .. K-1, "scores" (n,) and, with masks, "masks" (n, H, W);
truths of "boxes", "labels", "masks" and, where known, "iscrowd" and "area" (the annotation's). Both are in pixels of
the stored image. A crowd region counts neither as missed nor, where a detection lies in it, as a mistake.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric

from densevit.errors import UserError
from densevit.evaluation.coco_scores import DetectionScores, PrecisionRecall
from densevit.evaluation.rle import coco_library, encode_masks, mask_areas

__all__ = ["CocoMetric", "DetectionScores"]

Size = tuple[int, int]


@dataclass(eq=False)
class _Objects:
    """What was found, or is true, in one image; n objects."""

    boxes: NDArray[np.float64]
    """(n, 4) left, top, width, height."""
    labels: NDArray[np.int64]
    """(n,)"""
    numbers: NDArray[np.float64]
    """(n,) score of a prediction, area of a true object."""
    codes: list[bytes] | None
    """Run-length code of each mask."""
    iscrowd: NDArray[np.bool_] | None = None
    """(n,) of true objects."""


@dataclass(eq=False)
class _Record:
    """One image. Compared and hashed by identity, as torchmetrics hashes what a metric holds."""

    image_id: int
    size: Size
    found: _Objects
    truth: _Objects


class CocoMetric(Metric):
    """Streaming detection scores; one instance per evaluation, also as a part of a LightningModule.

    `category_ids` are the ids that the classes have in the data set's json, for the record of `coco_results`; scores do
    not depend on them. Across devices the images are put together.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    records: list[_Record]

    def __init__(
        self,
        classes: Sequence[str],
        *,
        category_ids: Sequence[int] | None = None,
        with_masks: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        coco_library()  # told at once rather than after the first validation
        self.classes = tuple(classes)
        self.category_ids = tuple(category_ids or range(1, len(self.classes) + 1))
        self.with_masks = with_masks
        if not self.classes:
            raise UserError("detection scores need at least one class")
        if len(self.category_ids) != len(self.classes):
            raise UserError(f"{len(self.classes)} classes need as many category ids, not {len(self.category_ids)}")
        self.add_state("records", [], dist_reduce_fx=None)

    def update(
        self,
        predictions: Sequence[Mapping[str, Tensor]],
        truths: Sequence[Mapping[str, Tensor]],
        image_ids: Sequence[int],
        sizes: Sequence[Size],
    ) -> None:
        """Count one batch, an image for each entry; `sizes` are the (H, W) of the stored images.

        UserError for a class outside 0 .. K-1 and for scores that are no numbers.
        """
        for prediction, truth, image_id, size in zip(predictions, truths, image_ids, sizes, strict=True):
            height, width = size
            at = (int(height), int(width))
            record = _Record(int(image_id), at, self._found(prediction, at), self._truth(truth, at))
            self.records.append(record)

    def compute(self) -> DetectionScores:
        """Scores of everything counted so far."""
        records = sorted(self.records, key=lambda record: record.image_id)
        for one, other in pairwise(records):
            if one.image_id == other.image_id:
                raise UserError(f"two images have the id {one.image_id}; give every image of the data set its own")
        K = len(self.classes)
        support = np.zeros(K, dtype=np.int64)
        for record in records:
            truth = record.truth
            support += np.bincount(truth.labels[~_crowd(truth)], minlength=K)
        return DetectionScores(
            box=_evaluate(records, num_classes=K, kind="bbox"),
            mask=_evaluate(records, num_classes=K, kind="segm") if self.with_masks else None,
            support=tuple(support.tolist()),
            num_images=len(records),
            classes=self.classes,
        )

    def _found(self, prediction: Mapping[str, Tensor], size: Size) -> _Objects:
        scores = _numbers(prediction["scores"])
        if np.isnan(scores).any():
            raise UserError("the model's scores are not numbers (nan); its weights are damaged or its input is")
        codes = self._codes(prediction, size, "the model gives")
        return _Objects(_xywh(prediction["boxes"]), self._labels(prediction, "the model finds"), scores, codes)

    def _truth(self, truth: Mapping[str, Tensor], size: Size) -> _Objects:
        boxes, labels = _xywh(truth["boxes"]), self._labels(truth, "the data have")
        codes = self._codes(truth, size, "the data have")
        if "area" in truth:
            areas = _numbers(truth["area"])
        else:
            areas = boxes[:, 2] * boxes[:, 3] if codes is None else np.array(mask_areas(codes, size=size), dtype=float)
        iscrowd = truth["iscrowd"].cpu().numpy().astype(bool) if "iscrowd" in truth else np.zeros(len(labels), bool)
        return _Objects(boxes, labels, areas, codes, iscrowd)

    def _labels(self, objects: Mapping[str, Tensor], who: str) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = objects["labels"].cpu().numpy().astype(np.int64)
        wrong = labels[(labels < 0) | (labels >= len(self.classes))]
        if wrong.size:
            raise UserError(
                f"{who} class {wrong[0]}, but with {len(self.classes)} classes a class is 0 .. {len(self.classes) - 1}"
            )
        return labels

    def _codes(self, objects: Mapping[str, Tensor], size: Size, who: str) -> list[bytes] | None:
        if not self.with_masks:
            return None
        if "masks" not in objects:
            raise UserError(f"{who} no masks, which the scores of masks need; score the boxes alone")
        masks = objects["masks"].as_subclass(Tensor)
        if len(masks) and tuple(masks.shape[-2:]) != size:
            raise ValueError(f"masks are {tuple(masks.shape[-2:])} but their image is {size}")
        return encode_masks(masks)

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Put the images of all devices together: no tensors, which is all that torchmetrics gathers itself."""
        parts: list[Any] = [None] * torch.distributed.get_world_size(process_group)
        torch.distributed.all_gather_object(parts, self.records, group=process_group)
        self.records = [record for part in parts for record in part]

    def _apply(self, fn: Any, exclude_state: Sequence[str] = ()) -> nn.Module:
        """Images stay on the CPU when the metric moves."""
        return super()._apply(fn, exclude_state=("records", *exclude_state))


def _evaluate(records: Sequence[_Record], *, num_classes: int, kind: str) -> PrecisionRecall:
    """COCO's precisions and recalls of boxes ("bbox") or masks ("segm"); images are taken in their order."""
    if not records:
        nothing = np.full((10, num_classes, 4, 3), np.nan)
        return PrecisionRecall(nothing[..., 0], nothing)
    library = coco_library()
    truths: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, record in enumerate(records, start=1):
        truths += _annotations(record.truth, number, kind, size=record.size, of_truth=True)
        found += _annotations(record.found, number, kind, size=record.size, of_truth=False)
    for number, truth in enumerate(truths, start=1):
        truth["id"] = number
    sizes = [{"id": n, "height": r.size[0], "width": r.size[1]} for n, r in enumerate(records, start=1)]
    categories = [{"id": k, "name": str(k)} for k in range(1, num_classes + 1)]
    reference = library.COCO({"images": sizes, "annotations": truths, "categories": categories})
    evaluation = library.COCOeval_faster(reference, reference.loadRes(found), iouType=kind)
    evaluation.evaluate()
    evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]  # (T, R, K, A, M), (T, K, A, M)
    at_100 = np.where(precision[..., -1] < 0, np.nan, precision[..., -1])
    return PrecisionRecall(at_100.mean(axis=1), np.where(recall < 0, np.nan, recall))  # -1 means no object


def _annotations(objects: _Objects, image: int, kind: str, *, size: Size, of_truth: bool) -> list[dict[str, Any]]:
    """Objects of one image as entries of COCO's files."""
    entries: list[dict[str, Any]] = []
    crowd = _crowd(objects)
    for index, (label, number) in enumerate(zip(objects.labels.tolist(), objects.numbers.tolist(), strict=True)):
        entry: dict[str, Any] = {"image_id": image, "category_id": label + 1}
        if of_truth or kind == "bbox":
            entry["bbox"] = objects.boxes[index].tolist()
        if kind == "segm":
            assert objects.codes is not None
            entry["segmentation"] = {"size": list(size), "counts": objects.codes[index]}
        entry |= {"area": number, "iscrowd": int(crowd[index])} if of_truth else {"score": number}
        entries.append(entry)
    return entries


def _crowd(objects: _Objects) -> NDArray[np.bool_]:
    return np.zeros(len(objects.labels), dtype=bool) if objects.iscrowd is None else objects.iscrowd


def _numbers(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.detach().as_subclass(Tensor).cpu().double().numpy()
    return array


def _xywh(boxes: Tensor) -> NDArray[np.float64]:
    """(n, 4) XYXY -> (n, 4) left, top, width, height."""
    corners = _numbers(boxes).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
