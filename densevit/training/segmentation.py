"""Semantic segmentation as a LightningModule: the loss, the validation scores, what a checkpoint carries."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.evaluation.mean_iou import MeanIoU
from densevit.evaluation.scores import SegmentationScores
from densevit.inference.segment import segment_labels
from densevit.models.segmenter import Segmenter
from densevit.training.config import SegmentationExperiment
from densevit.training.losses import segmentation_loss
from densevit.training.optim import build_optimizer, build_schedule, learning_rate
from densevit.training.settings import experiment_to_dict
from densevit.weights.pretrained import HEADER_KEY, ModelInfo

Batch = dict[str, Any]
MONITOR = "val/mIoU"


class SegmentationTask(L.LightningModule):
    """Trains a `Segmenter` with the paper's loss: main decoder plus weighted auxiliary heads (Sec. 4.1)."""

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
        super().__init__()
        self.experiment = experiment
        self.model = model
        self._forward_all = torch.compile(model.forward_all) if experiment.train.compile else model.forward_all
        ema = experiment.train.ema
        self.ema = None if ema is None else ModelEmaV3(model, decay=ema, use_warmup=True)
        self.classes, self.palette, self.ignore_index = classes, palette, ignore_index
        self.val_scores = MeanIoU(classes, ignore_index=ignore_index)
        self.last_scores: SegmentationScores | None = None
        self.scored_step = -1
        """Step of the last complete validation."""
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self._exporting = False
        self._step_losses: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # dropout and drop path follow from the seed and the batch, as the augmentation does: resuming changes nothing
        place = (self.experiment.train.seed, batch_idx, self.trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        self._step_losses.append({name: value.detach() for name, value in losses.items()})
        return losses["loss"]

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        train = self.experiment.train
        if (batch_idx + 1) % train.accumulate:
            return
        if self.ema is not None:
            self.ema.update(self.model, step=self.trainer.global_step)
        step, parts = self.trainer.global_step, self._step_losses
        self._step_losses = []
        if step % train.log_every_steps == 0 or step in (1, train.num_steps):
            values = {f"train/{name}": float(sum(part[name] for part in parts)) / len(parts) for name in parts[0]}
            optim = self.experiment.optim
            values["train/lr"] = learning_rate(step - 1, base_lr=optim.lr, num_steps=train.num_steps, config=optim)
            self._write(values)

    def _write(self, values: dict[str, float]) -> None:
        """Into `metrics.csv` and TensorBoard, at the number of updates done."""
        for logger in self.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)

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

    @property
    def used_model(self) -> nn.Module:
        """What is validated and exported: the moving average of the weights where one is kept."""
        return self.model if self.ema is None else self.ema.module

    def segment(self, batch: Batch) -> Tensor:
        """Labels (B, H, W) at the mask's size, as the experiment evaluates."""
        size = (batch["mask"].shape[-2], batch["mask"].shape[-1])
        return segment_labels(
            self.used_model, batch["image"], num_classes=len(self.classes), config=self.experiment.eval, size=size
        )

    def on_validation_epoch_end(self) -> None:
        scores = self.val_scores.compute()
        self.last_scores = scores
        self.val_scores.reset()
        self.log(MONITOR, scores.mean_iou, logger=False)
        if not self.trainer.sanity_checking:
            self.scored_step = self.trainer.global_step
            names = ("pixel_accuracy", "mean_accuracy")
            self._write({MONITOR: scores.mean_iou} | {f"val/{name}": getattr(scores, name) for name in names})

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.experiment.optim)
        schedule = build_schedule(optimizer, self.experiment.optim, num_steps=self.experiment.train.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._exporting:
            checkpoint["state_dict"] = {f"model.{key}": value for key, value in self.used_model.state_dict().items()}
        checkpoint[HEADER_KEY] = self.info().to_json()
        if self.last_scores is not None:
            checkpoint["confusion"] = torch.from_numpy(self.last_scores.confusion)
        checkpoint["scored_step"] = self.scored_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = ModelInfo.from_json(checkpoint[HEADER_KEY], source="the checkpoint")
        if stored.classes != self.classes:
            raise UserError(
                f"the checkpoint has {len(stored.classes)} classes ({', '.join(stored.classes[:3])} ...), "
                f"the data set {len(self.classes)} ({', '.join(self.classes[:3])} ...); resume with the same classes"
            )
        self.scored_step = checkpoint["scored_step"]
        if "confusion" in checkpoint:
            confusion = checkpoint["confusion"].cpu().numpy()
            self.last_scores = SegmentationScores.from_confusion(confusion, classes=self.classes)

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Within it, a checkpoint holds only the weights that are used after training."""
        self._exporting = True
        try:
            yield
        finally:
            self._exporting = False
