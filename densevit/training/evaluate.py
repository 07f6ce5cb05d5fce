"""Score a trained model on a data set, as its task validates: segmentation at the original size of the ground truth."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from densevit.errors import UserError
from densevit.training.settings import Experiment
from densevit.training.task import Scores
from densevit.training.tasks import TASKS
from densevit.weights.pretrained import ModelInfo

Track = Callable[[Iterable[Any], int | None], Iterable[Any]]
"""Wraps the batches to show progress: (batches, number of them where it is known) -> batches."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    info: ModelInfo,
    experiment: Experiment,
    *,
    device: torch.device | str = "cpu",
    track: Track = lambda batches, total: batches,
) -> Scores:
    """Scores of `model` on `experiment.data.val_split`, evaluated as the experiment says.

    UserError if the data set's classes are not the model's.
    """
    kind = TASKS[experiment.task]
    data = kind.data(experiment, num_batches=1, seed=0)
    check_classes(info.classes, data.classes, data_name=experiment.data.name)
    only_model = replace(experiment, train=replace(experiment.train, ema=None, compile=False))
    task = kind.task.for_data(only_model, model, data, training=False).to(device).eval()
    loader: DataLoader[Any] = data.val_dataloader()
    total = None if isinstance(loader.dataset, IterableDataset) else len(loader)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(experiment.train.precision)
    for index, batch in enumerate(track(loader, total)):
        on_device = move_data_to_device(batch, torch.device(device))
        with torch.autocast(torch.device(device).type, dtype=dtype, enabled=dtype is not None):
            task.validation_step(on_device, index)
    return task.pop_scores()


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
                "give the class list that it was trained with, in its order"
            )
