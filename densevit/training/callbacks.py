"""Stopping cleanly: Ctrl-C and SIGTERM end training with a checkpoint from which nothing is lost."""

import signal
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning as L

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Training was stopped by the user after saving `checkpoint`."""

    def __init__(self, checkpoint: Path, step: int):
        super().__init__(f"stopped at step {step}")
        self.checkpoint = checkpoint
        self.step = step


class StopOnSignal(L.Callback):
    """Ctrl-C (or SIGTERM) ends training between two steps, or between two validation images, after a checkpoint.

    Used as a context around the trainer's `fit`, where a signal before the first step, or a second one, ends at once
    with KeyboardInterrupt.
    """

    def __init__(self, checkpoint: Path, *, accumulate: int = 1):
        self.checkpoint = checkpoint
        self.accumulate = accumulate
        self.asked = False
        self._training = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}
        self._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if isinstance(error, _AtOnce):
            raise KeyboardInterrupt from None

    def _install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked or not self._training:
            raise _AtOnce
        self.asked = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()  # Lightning has put its own handler for SIGTERM, which saves nothing
        self._training = True

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % self.accumulate == 0:  # the update before is complete, so the checkpoint resumes after it
            self._stop_if_asked(trainer)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._training:  # not in the check before training
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        asked = self.asked
        if trainer.world_size > 1:  # all devices stop at one step; in validation they differ in the number of images
            asked = trainer.training and trainer.strategy.reduce_boolean_decision(asked, all=False)
        if asked:
            trainer.save_checkpoint(self.checkpoint)
            raise Stopped(self.checkpoint, trainer.global_step)


class _AtOnce(BaseException):
    """Passes through Lightning, which ends the process with exit code 1 when it sees KeyboardInterrupt."""
