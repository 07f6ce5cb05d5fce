"""Tensors that inference computes from parameters once, and again when those change."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

MAX_KEPT = 4
"""Derived tensors kept per module; with images of ever new sizes the oldest make room."""

_fused_steps = 0


def _count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    global _fused_steps
    _fused_steps += any(group.get("fused") for group in optimizer.param_groups)


register_optimizer_step_post_hook(_count)


def version(*tensors: Tensor) -> tuple[Any, ...]:
    """What differs after a change of one of these, unless it was written through `.data`.

    Their storage and counters of changes, and the number of steps of fused optimizers, which leave both alone.
    """
    return (_fused_steps, *((t.data_ptr(), t._version) for t in tensors))


class DerivedTensors:
    """Tensors computed from parameters (folded weights, bias tables), kept until a parameter changes.

    A change is seen by their `version`. `nn.Module.train` and `.eval` of the owner drop everything, so that a switch of
    mode is always safe.
    """

    def __init__(self) -> None:
        self._entries: dict[Any, tuple[Any, Any]] = {}  # in order of age

    def get(self, key: Any, sources: list[Tensor], build: Any) -> Any:
        """`build()`, or what it gave the last time under `key` if no tensor of `sources` has changed since.

        Parameters made under `torch.inference_mode` count no changes: then nothing is kept, nor is it by a compiler.
        """
        if torch.compiler.is_compiling() or any(t.is_inference() for t in sources):
            return build()
        state = version(*sources)
        entry = self._entries.get(key)
        if entry is None or entry[0] != state:
            entry = self._entries[key] = (state, build())
            if len(self._entries) > MAX_KEPT:
                self._entries.pop(next(iter(self._entries)), None)  # another thread may have been here
        return entry[1]

    def clear(self) -> None:
        self._entries.clear()

    def __deepcopy__(self, memo: Any) -> "DerivedTensors":
        return DerivedTensors()

    def __getstate__(self) -> dict[str, Any]:
        return {"_entries": {}}
