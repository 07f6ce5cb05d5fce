"""Whether a module is as this package made it. One with an adapter, a hook or a parametrization must be called."""

from typing import Any

from torch import Tensor, nn

OWN_PARTS = ("torch.nn.modules.", "timm.layers.", "densevit.models.")
"""Where the classes of an untouched module are defined."""

CONTAINERS = "torch.nn.modules.container"
"""No part of an untouched module but of those with `is_called`; in place of a layer it is an adapter."""


def has_hooks(part: nn.Module) -> bool:
    """Whether something runs before or after `part` when it is called, or in place of its class's `forward`."""
    own = part.__dict__
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
    )


def made_of(module: nn.Module) -> list[Any]:
    """The kind of each part right inside, its settings and the shapes of its parameters.

    A class that does not always call its parts has this from its constructor as `made`: `untouched` sees whether a part
    was replaced, pruned or set otherwise since. A synchronised norm is the norm that it stands for.
    """
    made: list[Any] = []
    for part in module.__dict__["_modules"].values():
        if part is not None:
            own, kind = part.__dict__, type(part)
            made.append(nn.BatchNorm2d if kind is nn.SyncBatchNorm else kind)
            if "stride" in own:
                made += own["stride"], own.get("padding"), own.get("dilation"), own.get("groups")
            elif "track_running_stats" in own:
                made += own["_buffers"].get("running_mean") is None, own["eps"]
            for tensor in own["_parameters"].values():
                made.append(None if tensor is None else tensor.shape)
    return made


def untouched(
    part: nn.Module, *, training: bool, found: list[Tensor] | None = None, may_lack_bias: bool = False
) -> bool:
    """Whether `part` and all in it are in this mode and untouched; their parameters are added to `found`.

    It is asked for every call of every layer, and so looks at what modules keep inside rather than use their methods. A
    class with `is_called` is always called, its parts are its own affair; one with `lacks_bias` may hold a convolution
    without bias, which is otherwise an unknown layer.
    """
    own, kind = part.__dict__, type(part)
    if not kind.__module__.startswith(OWN_PARTS) or own["training"] is not training:
        return False
    if has_hooks(part):
        return False
    if kind.__module__ == CONTAINERS or own.get("padding_mode", "zeros") != "zeros":
        return False
    if own["_parameters"].get("bias", part) is None and not may_lack_bias:
        return False
    if getattr(kind, "is_called", False):
        return True
    if "made" in own and own["made"] != made_of(part):
        return False
    if found is not None:
        found.extend(tensor for tensor in own["_parameters"].values() if tensor is not None)
    children = [child for child in own["_modules"].values() if child is not None]
    lacks_bias = getattr(kind, "lacks_bias", False)
    return all(untouched(child, training=training, found=found, may_lack_bias=lacks_bias) for child in children)
