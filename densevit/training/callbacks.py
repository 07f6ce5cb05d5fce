"""What happens around the training loop: stopping cleanly and stopping on numbers that are no numbers."""

import signal
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from densevit.errors import UserError

LAST = "last.ckpt"
BEST = "best.ckpt"


class Stopped(Exception):
    """Training was stopped by the user after saving `checkpoint`."""

    def __init__(self, checkpoint: Path, step: int):
        super().__init__(f"stopped at step {step}")
        self.checkpoint = checkpoint
        self.step = step


class StopOnSignal(L.Callback):
    """Ctrl-C (or SIGTERM) ends training between two steps, with a checkpoint from which it can go on.

    A second Ctrl-C stops at once.
    """

    def __init__(self, checkpoint: Path):
        self.checkpoint = checkpoint
        self.asked = False
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.asked:  # here the step before is complete, so the checkpoint resumes exactly after it
            trainer.save_checkpoint(self.checkpoint)
            raise Stopped(self.checkpoint, trainer.global_step)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


class NaNGuard(L.Callback):
    """Stops as soon as a loss is not finite and names the first tensor that went wrong.

    The loss is read every `every_steps` steps (reading it waits for the device) and before each checkpoint, so that
    no checkpoint holds damaged weights.
    """

    def __init__(self, every_steps: int):
        self.every_steps = every_steps
        self._loss: Tensor | None = None
        self._batch: Any = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss, self._batch = outputs["loss"].detach(), batch
        if trainer.global_step % self.every_steps == 0:
            self._check(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._loss is not None and not torch.isfinite(self._loss):
            culprit = first_bad_tensor(pl_module.model, self._batch["image"])  # type: ignore[arg-type]
            raise UserError(
                f"the loss became {self._loss.item()} by step {trainer.global_step} (first bad tensor: {culprit}); "
                "lower optim.lr, set optim.clip_grad_norm=1, or train in fp32; earlier checkpoints are intact"
            )


@torch.no_grad()
def first_bad_tensor(model: nn.Module, images: Tensor) -> str:
    """Name the input, the parameter or the first module output that holds a NaN or an infinity."""
    if not torch.isfinite(images).all():
        return "the input images"
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"parameter {name}"
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(f"output of {name} ({type(module).__name__})")

        return hook

    handles = [m.register_forward_hook(look(n)) for n, m in model.named_modules() if not list(m.children())]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself"
