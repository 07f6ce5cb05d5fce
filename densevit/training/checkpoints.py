"""Checkpoints: `last.ckpt` to resume from, `best.ckpt` by score, never half written, resumed without a seam.

Between two steps there is nothing to remember but the weights, the optimizer, the number of updates and whether a
validation was cut off: sample order, augmentation and dropout follow from the seed and the step.
"""

import math
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from densevit.errors import UserError
from densevit.training.task import Task

LAST = "last.ckpt"
BEST = "best.ckpt"
PENDING = "validation_pending"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the file and renames: a kill in the middle of saving leaves the checkpoint before intact."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


class SaveCheckpoints(L.Callback):
    """After each validation: `best.ckpt` (weights only) where the score is the highest so far, then `last.ckpt`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.best_score = math.nan

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, Task)
        assert pl_module.last_scores is not None
        score = pl_module.last_scores.headline
        if not score <= self.best_score or not (self.folder / BEST).is_file():  # also where none is a number yet
            self.best_score = score
            with pl_module.exporting():
                trainer.save_checkpoint(self.folder / BEST, weights_only=True)
        trainer.save_checkpoint(self.folder / LAST)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, Task)
        checkpoint[PENDING] = trainer.validating and pl_module.scored_step != trainer.global_step

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        set_position(checkpoint, accumulate=trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]


class ValidateAtEnd(L.Callback):
    """Has Lightning validate after the last step too, where that is no multiple of the interval."""

    def __init__(self, num_batches: int):
        self.num_batches = num_batches

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._set(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._set(trainer)

    def _set(self, trainer: L.Trainer) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.num_batches:
            trainer.val_check_batch = self.num_batches


def read_position(checkpoint: Path) -> tuple[int, bool]:
    """Steps done at a checkpoint, and whether the validation due there is still to be made."""
    try:
        values = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return int(values["global_step"]), bool(values[PENDING])
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"{checkpoint} cannot be read ({type(error).__name__}); resume from another run") from error


def set_position(checkpoint: dict[str, Any], *, accumulate: int) -> None:
    """Put Lightning's counters where they are after the checkpoint's last update, in place.

    They depend on where in the loop a checkpoint was saved; these are those of a batch just completed, its validation
    either completed as well, or begun and to be made from its first image.
    """
    loop = checkpoint["loops"]["fit_loop"]
    done, begun = _counts(checkpoint["global_step"] * accumulate), _counts(1) | {"processed": 0, "completed": 0}
    started = begun if checkpoint[PENDING] else _counts(0)
    loop["epoch_loop.batch_progress"] = {"total": dict(done), "current": dict(done), "is_last_batch": False}
    loop["epoch_loop.val_loop.batch_progress"] = {
        "total": dict(started), "current": dict(started), "is_last_batch": False
    }  # fmt: skip


def _counts(number: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "completed", "started", "processed"), number)
