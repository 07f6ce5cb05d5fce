"""Image classification as a task: mixing, cross entropy with smoothed labels, top-1 and top-5.

With a moving average of the weights both it and the plain weights are validated and the better of the two is kept,
as in the authors' code.
"""

import contextlib
import sys
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_only
from timm.data import Mixup
from torch import Tensor, nn

from densevit.errors import UserError, some_of
from densevit.evaluation.top_k import ClassificationScores, TopK
from densevit.models.catalog import create_model
from densevit.models.trial import try_images
from densevit.training.classification_data import ClassificationData
from densevit.training.config_classification import ClassificationDataConfig, ClassificationExperiment
from densevit.training.settings import experiment_to_dict
from densevit.training.task import Batch, Task
from densevit.weights.pretrained import ModelInfo


class ClassificationTask(Task):
    """Trains a classifier, images (B, 3, H, W) -> logits (B, K)."""

    monitor: ClassVar[str] = "val/top1"
    scores_type: ClassVar[type[ClassificationScores]] = ClassificationScores

    def __init__(self, experiment: ClassificationExperiment, model: nn.Module, *, classes: tuple[str, ...]):
        super().__init__(experiment, model, classes=classes)
        self._forward = torch.compile(model.forward) if experiment.train.compile else model.forward
        self.mix = mixing(experiment.data, num_classes=len(classes))
        self.val_scores = TopK(classes)
        self.ema_scores = None if self.ema is None else TopK(classes)
        self.ema_is_better = False

    @classmethod
    def for_data(
        cls, experiment: ClassificationExperiment, model: nn.Module, data: ClassificationData, *, training: bool
    ) -> "ClassificationTask":
        if training:
            data.share_of_batch()
            _check_model(experiment, num_classes=len(data.classes))
            _tell_of_unseen(data)
        return cls(experiment, model, classes=data.classes)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        place = (self.experiment.train.seed, batch_idx, self.trainer.global_rank, 1)
        np.random.seed(int(np.random.SeedSequence(place).generate_state(1)[0]))  # timm's Mixup draws from numpy

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, target = batch["image"], batch["label"]
        if self.mix is not None:
            images, target = self.mix(images.clone(), target)
        loss = F.cross_entropy(self._forward(images), target, label_smoothing=self.experiment.loss.label_smoothing)
        return {"loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_scores.update(self.model(batch["image"]).float(), batch["label"])
        if self.ema is not None and self.ema_scores is not None:
            self.ema_scores.update(self.ema.module(batch["image"]).float(), batch["label"])

    def pop_scores(self) -> ClassificationScores:
        scores: ClassificationScores = self.val_scores.compute()
        self.val_scores.reset()
        if self.ema_scores is not None:
            averaged: ClassificationScores = self.ema_scores.compute()
            self.ema_scores.reset()
            self.ema_is_better = averaged.top1 >= scores.top1
            self._compared = {"val/top1_plain": scores.top1, "val/top1_ema": averaged.top1}
            return averaged if self.ema_is_better else scores
        return scores

    def logged_scores(self, scores: ClassificationScores) -> dict[str, float]:
        compared = {} if self.ema is None else self._compared
        return {"val/top5": scores.top5, "val/mean_accuracy": scores.mean_accuracy} | compared

    @property
    def used_model(self) -> nn.Module:
        return self.ema.module if self.ema is not None and self.ema_is_better else self.model

    def info(self) -> ModelInfo:
        config, scores = self.experiment, self.last_scores
        return ModelInfo(
            task="classification",
            model=dict(self.model.config),  # type: ignore[arg-type]
            classes=self.classes,
            palette=(),
            mean=config.data.mean,
            std=config.data.std,
            inference={name: getattr(config.data, name) for name in ("image_size", "crop_pct", "interpolation")},
            metrics={} if scores is None else {"top1": scores.top1, "top5": scores.top5},
            training=experiment_to_dict(config),
        )


def mixing(config: ClassificationDataConfig, *, num_classes: int) -> Any:
    """timm's mixup and CutMix of whole batches, (images, labels) -> (images, targets (B, K)); None if turned off.

    It mixes in place. Labels are smoothed by the loss instead: both are linear in the target, so the sum is the same.
    """
    if not config.mixes:
        return None
    return Mixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mix_prob,
        switch_prob=config.cutmix_share,
        label_smoothing=0.0,
        num_classes=num_classes,
    )


@rank_zero_only
def _tell_of_unseen(data: ClassificationData) -> None:
    """A class without a validation image is scored nowhere, which is hardly meant."""
    if unseen := getattr(data.val_set, "empty_classes", ()):
        split = data.config.val_split
        print(f"{len(unseen)} classes have no image in split {split!r}: {some_of(unseen)}", file=sys.stderr)


@torch.no_grad()
def _check_model(experiment: ClassificationExperiment, *, num_classes: int) -> None:
    """UserError where the model takes no images of this size or gives no logits, told from shapes alone.

    Some of timm's have a size of their own.
    """
    height, width = experiment.data.image_size
    name, args = experiment.model.name, experiment.model.args
    with contextlib.suppress(NotImplementedError):  # what cannot be told without numbers, training will tell
        with torch.device("meta"):
            model = create_model(name, num_classes=num_classes, **args).eval()
            images = torch.zeros(1, len(experiment.data.mean), height, width)
        logits = try_images(model, images, name=f"{name} with model.args={args}")
        if getattr(logits, "shape", None) != (1, num_classes):
            gives = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UserError(
                f"{name} with model.args={args} gives {gives} for one image, not (1, {num_classes}), a logit for each "
                "class; leave out the argument that changes its output"
            )
