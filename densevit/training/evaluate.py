"""Score a trained segmenter on a data set, at the original size of the ground truth."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from densevit.errors import UserError
from densevit.evaluation.mean_iou import MeanIoU
from densevit.evaluation.scores import SegmentationScores
from densevit.inference.segment import segment_labels
from densevit.training.config import SegmentationExperiment
from densevit.training.data import SegmentationData
from densevit.weights.pretrained import ModelInfo

Track = Callable[[Iterable[Any], int], Iterable[Any]]
"""Wraps the batches to show progress: (batches, number of them) -> batches."""


def evaluate(
    model: nn.Module,
    info: ModelInfo,
    experiment: SegmentationExperiment,
    *,
    device: torch.device | str = "cpu",
    track: Track = lambda batches, total: batches,
) -> SegmentationScores:
    """Scores of `model` on `experiment.data.val_split`, segmenting as `experiment.eval` says.

    UserError if the data set's classes are not the model's.
    """
    data = SegmentationData(experiment.data, num_batches=1, seed=0)
    check_classes(info.classes, data.classes, data_name=experiment.data.name)
    model = model.to(device).eval()
    scores = MeanIoU(data.classes, ignore_index=data.ignore_index)
    loader: DataLoader[Any] = data.val_dataloader()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(experiment.train.precision)
    for batch in track(loader, len(loader)):
        size = (batch["mask"].shape[-2], batch["mask"].shape[-1])
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
            labels = segment_labels(
                model, batch["image"].to(device), num_classes=len(data.classes), config=experiment.eval, size=size
            )
        scores.update(labels.cpu(), batch["mask"])
    return scores.compute()


def check_classes(model_classes: tuple[str, ...], data_classes: tuple[str, ...], *, data_name: str) -> None:
    """UserError unless the class lists agree, name by name."""
    if len(model_classes) != len(data_classes):
        raise UserError(
            f"the model knows {len(model_classes)} classes but data set {data_name!r} has {len(data_classes)}; "
            "evaluate it on the data it was trained for, or train with this class list"
        )
    for index, (ours, theirs) in enumerate(zip(model_classes, data_classes, strict=True)):
        if ours != theirs:
            raise UserError(
                f"class {index} is {ours!r} for the model but {theirs!r} in data set {data_name!r}; "
                "bring the class lists into the same order"
            )
