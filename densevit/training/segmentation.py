"""Semantic segmentation as a task: the loss and the validation scores."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.evaluation.mean_iou import MeanIoU
from densevit.evaluation.scores import SegmentationScores
from densevit.inference.segment import segment_labels
from densevit.models.segmenter import Segmenter
from densevit.training.class_balance import class_weights
from densevit.training.config import SegmentationExperiment
from densevit.training.data import SegmentationData
from densevit.training.losses import segmentation_loss
from densevit.training.settings import experiment_to_dict
from densevit.training.task import Batch, Task
from densevit.weights.pretrained import ModelInfo


class SegmentationTask(Task):
    """Trains a `Segmenter` with the paper's loss: main decoder plus weighted auxiliary heads (Sec. 4.1)."""

    monitor: ClassVar[str] = "val/mIoU"
    scores_type: ClassVar[type[SegmentationScores]] = SegmentationScores
    class_weights: Tensor | None

    def __init__(
        self,
        experiment: SegmentationExperiment,
        model: Segmenter,
        *,
        classes: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        ignore_index: int = 255,
        class_weights: tuple[float, ...] | None = None,
    ):
        """`class_weights` has one number per class; None weighs all alike."""
        super().__init__(experiment, model, classes=classes)
        self._forward_all = torch.compile(model.forward_all) if experiment.train.compile else model.forward_all
        self.palette, self.ignore_index = palette, ignore_index
        self.val_scores = MeanIoU(classes, ignore_index=ignore_index)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    @classmethod
    def for_data(
        cls, experiment: SegmentationExperiment, model: nn.Module, data: SegmentationData, *, training: bool
    ) -> "SegmentationTask":
        assert isinstance(model, Segmenter)
        return cls(
            experiment,
            model,
            classes=data.classes,
            palette=data.palette,
            ignore_index=data.ignore_index,
            class_weights=class_weights(experiment.loss, data.train_set) if training else None,
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms: "loss" is the weighted sum, "main" and "aux_0" ... are its parts before weighting."""
        config = self.experiment.loss
        parts = [
            segmentation_loss(
                logits,
                batch["mask"],
                config=config,
                ignore_index=self.ignore_index,
                class_weights=self.class_weights,
            )
            for logits in self._forward_all(batch["image"])
        ]
        main, auxiliary = parts[0], parts[1:]
        total = main + config.auxiliary_weight * sum(auxiliary)
        return {"loss": total, "main": main} | {f"aux_{i}": value for i, value in enumerate(auxiliary)}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_scores.update(self.segment(batch), batch["mask"])

    def segment(self, batch: Batch) -> Tensor:
        """Labels (B, H, W) at the mask's size, as the experiment evaluates."""
        size = (batch["mask"].shape[-2], batch["mask"].shape[-1])
        return segment_labels(
            self.used_model, batch["image"], num_classes=len(self.classes), config=self.experiment.eval, size=size
        )

    def pop_scores(self) -> SegmentationScores:
        scores: SegmentationScores = self.val_scores.compute()
        self.val_scores.reset()
        if not sum(scores.support) and not self.in_sanity_check:
            raise UserError("the validation split has no labelled pixel; see `densevit data check`")
        return scores

    def logged_scores(self, scores: SegmentationScores) -> dict[str, float]:
        return {"val/pixel_accuracy": scores.pixel_accuracy, "val/mean_accuracy": scores.mean_accuracy}

    def info(self) -> ModelInfo:
        """What the exported model needs to know about itself."""
        config = self.experiment
        scores = self.last_scores
        return ModelInfo(
            task="segmentation",
            model=dict(self.model.config),  # type: ignore[arg-type]
            classes=self.classes,
            palette=self.palette,
            mean=config.data.mean,
            std=config.data.std,
            inference=experiment_to_dict(config)["eval"],
            metrics={} if scores is None else {"mIoU": scores.mean_iou, "pixel_accuracy": scores.pixel_accuracy},
            training=experiment_to_dict(config),
        )
