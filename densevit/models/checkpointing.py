"""Gradient checkpointing of layers with batch norm: the second forward pass must not count the batch again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Layer = TypeVar("Layer", bound=nn.Module)


def checkpointed(forward: Callable[[Layer, Tensor], Tensor], layer: Layer, x: Tensor) -> Tensor:
    """`forward(layer, x)`, of which only `x` is kept; gradients and running statistics are those of a plain call."""
    if torch.compiler.is_compiling():  # it knows no contexts here
        return checkpoint(forward, layer, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_stand_still(layer)

    return checkpoint(forward, layer, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_stand_still(layer: nn.Module) -> Iterator[None]:
    norms = [m for m in layer.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers(recurse=False)} for norm in norms]
    try:
        yield
    finally:
        with torch.no_grad():
            for norm, buffers in zip(norms, kept, strict=True):
                for name, value in buffers.items():
                    getattr(norm, name).copy_(value)
