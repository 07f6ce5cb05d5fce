"""Stops on numbers that are no numbers, before they reach a checkpoint, and names where they began."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from densevit.errors import UserError
from densevit.training.task import Batch, Task


class NaNGuard(L.Callback):
    """UserError as soon as a loss or a weight is not finite, naming the first tensor that went wrong.

    The loss is read every `every_steps` steps (on a GPU, reading it waits for the device), on a CPU each time. Before
    each validation and each checkpoint the weights are looked at too, so that no checkpoint holds damaged ones.
    """

    def __init__(self, every_steps: int):
        self.every_steps = every_steps
        self._batch: Batch | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        # before the update, which would spread the damage to every weight
        read = loss.device.type == "cpu" or (trainer.global_step + 1) % self.every_steps == 0
        if read and not torch.isfinite(loss):
            self._refuse(trainer, pl_module, f"the loss became {loss.item():g}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_weights(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        sums = [parameter.detach().sum(dtype=torch.float32) for parameter in pl_module.parameters()]
        if self._batch is not None and not torch.isfinite(torch.stack(sums)).all():
            self._refuse(trainer, pl_module, "weights became infinite or NaN")

    def _refuse(self, trainer: L.Trainer, pl_module: L.LightningModule, what: str) -> None:
        assert isinstance(pl_module, Task)
        batch = self._batch
        assert batch is not None
        with trainer.precision_plugin.forward_context():
            culprit = first_bad_tensor(pl_module.model, batch["image"], forward=lambda: pl_module.probe(batch))
        raise UserError(
            f"{what} at step {trainer.global_step + trainer.training} (first bad tensor: {culprit}); "
            "lower optim.lr, set optim.clip_grad_norm=1, or train in fp32; earlier checkpoints are intact"
        )


@torch.no_grad()
def first_bad_tensor(
    model: nn.Module, images: Tensor | Sequence[Tensor], *, forward: Callable[[], object] | None = None
) -> str:
    """Name the input, the parameter or the first module output that holds a NaN or an infinity.

    `forward` runs the model once; None: on the images alone.
    """
    if not all(torch.isfinite(image).all() for image in images):
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
        (forward or (lambda: model(images)))()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself"
