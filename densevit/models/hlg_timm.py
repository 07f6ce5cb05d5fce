"""HLG under timm's registry: importing this module makes `timm.create_model("hlg_small")` work.

timm.create_model("hlg_small", num_classes=10)
timm.create_model("hlg_small", features_only=True, out_indices=(1, 2, 3)).feature_info.channels()
"""

from collections.abc import Callable
from typing import Any

from timm.models import is_model, register_model
from torch import nn

from densevit.errors import UserError

HLG_NAMES = ("hlg_mobile", "hlg_tiny", "hlg_small", "hlg_medium", "hlg_large")

_TIMM_ONLY = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable", "exportable", "no_jit")


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise UserError(
                f"there are no pretrained weights for {name!r}; pass pretrained=False and load a checkpoint"
            )
        if kwargs.pop("output_stride", 32) != 32:
            raise UserError(f"{name!r} has strides 4, 8, 16, 32 only; leave output_stride at 32")
        if kwargs.get("global_pool", "avg") is None:
            del kwargs["global_pool"]
        from densevit.models.hlg import create_hlg  # here, so that HLG's own import of timm may register it

        return create_hlg(name, **{key: value for key, value in kwargs.items() if key not in _TIMM_ONLY})

    build.__name__ = build.__qualname__ = name
    build.__module__ = __name__
    build.__doc__ = f"{name} (Table 1); keyword arguments are those of `densevit.models.hlg.HLG`."
    return build


def register_hlg() -> None:
    """Register every HLG variant with timm; calling it again changes nothing."""
    for name in HLG_NAMES:
        if not is_model(name):
            globals()[name] = register_model(_entrypoint(name))


register_hlg()
