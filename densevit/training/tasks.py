"""The tasks that can be trained, by name: what differs between them, the loop being the same."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from densevit.training.classification import ClassificationTask
from densevit.training.classification_data import ClassificationData
from densevit.training.config import TrainConfig
from densevit.training.data import SegmentationData
from densevit.training.pictures import SamplePictures
from densevit.training.segmentation import SegmentationTask
from densevit.training.task import Task


@dataclass(frozen=True, kw_only=True)
class TaskKind:
    """The parts of one task."""

    task: type[Task]
    """Losses and validation."""
    data: Callable[..., Any]
    """(experiment.data, num_batches=, seed=) -> a data module with `classes`."""
    callbacks: Callable[[TrainConfig, Path], list[L.Callback]] = lambda train, run_dir: []
    """What else a training into a run folder does."""


def _sample_pictures(train: TrainConfig, run_dir: Path) -> list[L.Callback]:
    return [SamplePictures(run_dir / "pictures", num_pictures=train.num_sample_pictures)]


TASKS: dict[str, TaskKind] = {
    "segmentation": TaskKind(task=SegmentationTask, data=SegmentationData, callbacks=_sample_pictures),
    "classification": TaskKind(task=ClassificationTask, data=ClassificationData),
}
