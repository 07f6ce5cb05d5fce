"""Stops on numbers that are no numbers, before they reach a checkpoint, and names where they began."""

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from densevit.errors import UserError


class NaNGuard(L.Callback):
    """UserError as soon as a loss or a weight is not finite, naming the first tensor that went wrong.

    The loss is read every `every_steps` steps (reading it waits for the device). Before each validation and each
    checkpoint the weights are looked at too, so that no checkpoint holds damaged ones.
    """

    def __init__(self, every_steps: int):
        self.every_steps = every_steps
        self._loss: Tensor | None = None
        self._images: Tensor | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._loss, self._images = outputs["loss"].detach(), batch["image"]
        if trainer.global_step % self.every_steps == 0:
            self._check(trainer, pl_module, finite=torch.isfinite(self._loss))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_all(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_all(trainer, pl_module)

    def _check_all(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._loss is not None:
            sums = [parameter.detach().sum(dtype=torch.float32) for parameter in pl_module.parameters()]
            self._check(trainer, pl_module, finite=torch.isfinite(torch.stack([self._loss.float(), *sums])).all())

    def _check(self, trainer: L.Trainer, pl_module: L.LightningModule, *, finite: Tensor) -> None:
        if finite:
            return
        assert self._loss is not None
        assert self._images is not None
        model: nn.Module = pl_module.model  # type: ignore[assignment]
        with trainer.precision_plugin.forward_context():
            culprit = first_bad_tensor(model, self._images)
        raise UserError(
            f"the loss became {self._loss.item():g} by step {trainer.global_step} (first bad tensor: {culprit}); "
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
