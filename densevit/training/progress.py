"""One line of progress over all steps: loss, score, images per second, time left. Plain lines without a terminal."""

import math
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from densevit.training.task import Task

QUIET_SECONDS = 15.0
"""Without a terminal, a line is printed this often."""


class StepProgress(ProgressBar):
    """Progress over `num_steps`, not over epochs."""

    def __init__(self, *, num_steps: int, batch_size: int, console: Console | None = None):
        super().__init__()
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._loss = float("nan")
        self._score = float("nan")
        self._score_name = ""
        self._first_step = 0
        self._started = self._printed = self._in_validation = self._validation_started = 0.0

    def disable(self) -> None:
        self.console.quiet = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_step = trainer.global_step
        self._started = self._printed = time.monotonic()
        self._in_validation = 0.0
        if self.console.is_terminal:
            columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console)
            self._bar.add_task("", total=self.num_steps, completed=self._first_step)
            self._bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, now = trainer.global_step, time.monotonic()
        shown_soon = step % 10 == 0 or step == self.num_steps or now - self._printed > QUIET_SECONDS
        if not shown_soon:
            return
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # waits for the device, so not on every step
        self._loss = loss if math.isnan(self._loss) else 0.8 * self._loss + 0.2 * loss
        text = self._text(step, now)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, description=text)
        elif now - self._printed > QUIET_SECONDS or step == self.num_steps:
            self._printed = now
            self.console.print(f"step {step}/{self.num_steps}  {text}", highlight=False)

    def _text(self, step: int, now: float) -> str:
        seconds = max(now - self._started - self._in_validation, 1e-6)
        per_second = (step - self._first_step) / seconds
        left = int((self.num_steps - step) / max(per_second, 1e-9))
        score = "" if math.isnan(self._score) else f"  {self._score_name} {self._score:.3f}"
        speed = per_second * self.batch_size
        return f"loss {self._loss:.3f}{score}  {speed:.1f} images/s  {left // 60}:{left % 60:02d} left"

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_started = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._in_validation += time.monotonic() - self._validation_started
        assert isinstance(pl_module, Task)
        score = trainer.callback_metrics.get(pl_module.monitor)
        if score is None or trainer.sanity_checking:
            return
        self._score, self._score_name = float(score), pl_module.monitor.removeprefix("val/")
        self.console.print(f"step {trainer.global_step}: val {self._score_name} {self._score:.4f}", highlight=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
