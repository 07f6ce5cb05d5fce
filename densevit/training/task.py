"""What training any task has in common, as a LightningModule: seeds, logs, the moving average, checkpoints.

A task adds its losses, how a batch is scored and what the exported model needs to know; `tasks.py` lists them.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.training.optim import build_optimizer, build_schedule, learning_rate, scaled_to_batch
from densevit.weights.pretrained import HEADER_KEY, ModelInfo

Batch = dict[str, Any]


class Scores(Protocol):
    """Scores of a validation, whatever the task."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def headline(self) -> float:
        """The score that decides which checkpoint is the best."""

    @property
    def baseline(self) -> str:
        """What a constant guess would have had, as a sentence."""

    def counts(self) -> dict[str, NDArray[Any]]:
        """What `from_counts` makes the same scores of."""

    def table(self) -> str: ...

    def to_dict(self) -> dict[str, Any]: ...


class Task(L.LightningModule):
    """Trains `model` as `experiment` says. `best.ckpt` holds the model of the best validation so far."""

    monitor: ClassVar[str]
    """Logged name of the scores' headline."""
    scores_type: ClassVar[Any]
    """Class of the scores."""

    def __init__(self, experiment: Any, model: nn.Module, *, classes: tuple[str, ...]):
        super().__init__()
        self.experiment = experiment
        self.model = model
        self.classes = classes
        train = experiment.train
        self.optim_config = scaled_to_batch(experiment.optim, experiment.data.batch_size * train.accumulate)
        self.ema = None if train.ema is None else ModelEmaV3(model, decay=train.ema, use_warmup=True)
        if self.ema is not None:
            self.ema.requires_grad_(False)  # several devices would wait for the gradients
        self.last_scores: Any = None
        self.scored_step = -1
        """Step of the last complete validation."""
        self._exporting = False
        self._step_losses: list[dict[str, Tensor]] = []

    @classmethod
    @abstractmethod
    def for_data(cls, experiment: Any, model: nn.Module, data: Any, *, training: bool) -> "Task":
        """The task for an experiment, its model and its data module; `training` False: to validate only."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named loss terms; "loss" is the one to minimise."""

    @abstractmethod
    def pop_scores(self) -> Scores:
        """Scores of the validation that has just ended, cleared for the next one."""

    @abstractmethod
    def logged_scores(self, scores: Any) -> dict[str, float]:
        """Further numbers for `metrics.csv`, such as {"val/top5": 0.9}."""

    @abstractmethod
    def info(self) -> ModelInfo:
        """What the exported model needs to know about itself."""

    def probe(self, batch: Batch) -> None:
        """One plain forward pass over a training batch, to find where it goes wrong."""
        self.model(batch["image"])

    @property
    def in_sanity_check(self) -> bool:
        """Whether this is the trial batch that Lightning validates before training."""
        return self._trainer is not None and self.trainer.sanity_checking

    @property
    def used_model(self) -> nn.Module:
        """What is validated and exported: the moving average of the weights where one is kept."""
        return self.model if self.ema is None else self.ema.module

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
            optim = self.optim_config
            values["train/lr"] = learning_rate(step - 1, base_lr=optim.lr, num_steps=train.num_steps, config=optim)
            self._write(values)

    def _write(self, values: Mapping[str, float]) -> None:
        """Into `metrics.csv` and TensorBoard, at the number of updates done."""
        for logger in self.loggers:
            logger.log_metrics(dict(values), step=self.trainer.global_step)

    def on_validation_epoch_end(self) -> None:
        scores = self.pop_scores()
        self.last_scores = scores
        self.log(self.monitor, scores.headline, logger=False)
        if not self.trainer.sanity_checking:
            self.scored_step = self.trainer.global_step
            self._write({self.monitor: scores.headline} | self.logged_scores(scores))

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.optim_config)
        schedule = build_schedule(optimizer, self.optim_config, num_steps=self.experiment.train.num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._exporting:
            checkpoint["state_dict"] = {f"model.{key}": value for key, value in self.used_model.state_dict().items()}
        checkpoint[HEADER_KEY] = self.info().to_json()
        if self.last_scores is not None:
            checkpoint["scores"] = {name: torch.as_tensor(n) for name, n in self.last_scores.counts().items()}
        checkpoint["scored_step"] = self.scored_step

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = ModelInfo.from_json(checkpoint[HEADER_KEY], source="the checkpoint")
        if stored.classes != self.classes:
            raise UserError(
                f"the checkpoint has {len(stored.classes)} classes ({', '.join(stored.classes[:3])} ...), "
                f"the data set {len(self.classes)} ({', '.join(self.classes[:3])} ...); resume with the same classes"
            )
        self.scored_step = checkpoint["scored_step"]
        if "scores" in checkpoint:
            self.last_scores = read_scores(checkpoint, self.scores_type, classes=self.classes)

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Within it, a checkpoint holds only the weights that are used after training."""
        self._exporting = True
        try:
            yield
        finally:
            self._exporting = False


def read_scores(checkpoint: Mapping[str, Any], scores_type: Any, *, classes: tuple[str, ...]) -> Any:
    """The scores of the last validation, as a checkpoint has them."""
    return scores_type.from_counts(
        **{name: value.cpu().numpy() for name, value in checkpoint["scores"].items()}, classes=classes
    )
