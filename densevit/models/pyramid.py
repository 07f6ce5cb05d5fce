"""Encoders that yield maps at several strides: HLG, or any model of timm with `features_only`.

    encoder = create_pyramid("hlg_tiny")                  # or "swin_tiny", "resnet50", "pvt_v2_b2" ...
    maps = encoder(images)                                # (B, C_i, H / s_i, W / s_i) for s = 4, 8, 16, 32

Shapes: B batch, H W image sides (multiples of the largest stride), C_i s_i channels and stride of map i.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from torch import Tensor, nn

from densevit.errors import UserError, unknown_name
from densevit.models.encoders import build_timm
from densevit.models.hlg import HLG_VARIANTS, create_hlg

PYRAMIDS: dict[str, str] = {
    **{name: name for name in HLG_VARIANTS},
    "swin_tiny": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_small": "swin_small_patch4_window7_224.ms_in1k",
    "swin_base": "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
}
"""Short names -> names of ours or timm's names with their weights' tag."""

STRIDES = (4, 8, 16, 32)


class PyramidEncoder(nn.Module):
    """Images (B, C, H, W) -> maps of `channels[i]` at `strides[i]`, from fine to coarse, always (B, C, H, W)."""

    def __init__(
        self, body: nn.Module, *, channels: Sequence[int], strides: Sequence[int], channels_last: bool = False
    ):
        """`channels_last`: `body` gives (B, H, W, C) maps that end without a norm, as Swin's; each gets a LayerNorm."""
        super().__init__()
        self.body = body
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if channels_last else None

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body(images)
        if self.norms is None:
            return list(maps)
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps, strict=True)]


def create_pyramid(
    name: str,
    *,
    strides: Sequence[int] = STRIDES,
    in_channels: int = 3,
    pretrained: bool = False,
    drop_path_rate: float = 0.0,
    grad_checkpointing: bool = False,
    encoder_args: Mapping[str, Any] | None = None,
) -> PyramidEncoder:
    """Build a pyramid encoder: a name of `PYRAMIDS` or any timm model that gives maps at all `strides`.

    `encoder_args` go to `HLG` or to timm as they are. UserError for an unknown name, one without these strides, and for
    `pretrained` with HLG, whose weights are a file (`densevit fit --model.pretrained FILE`).
    """
    if not is_pyramid(name):
        raise unknown_name("pyramid encoder", name, [*PYRAMIDS, *timm.list_models()])
    args: dict[str, Any] = {"in_chans": in_channels, **(encoder_args or {})}
    if drop_path_rate:
        args["drop_path_rate"] = drop_path_rate
    if name in HLG_VARIANTS:
        if pretrained:
            raise UserError(f"{name} has no published weights; give a file: model.pretrained=PATH")
        indices = tuple(STRIDES.index(stride) for stride in strides if stride in STRIDES)
        body: Any = create_hlg(name, features_only=True, out_indices=indices, num_classes=0, **args)
    else:
        body = _timm_pyramid(PYRAMIDS.get(name, name), strides, pretrained=pretrained, args=args)
    if grad_checkpointing:
        body.set_grad_checkpointing(True)
    info = body.feature_info
    if tuple(info.reduction()) != tuple(strides):
        raise UserError(f"{name} gives maps at strides {tuple(info.reduction())}, but {tuple(strides)} are needed")
    channels_last = str(getattr(body, "output_fmt", "")).endswith("NHWC")
    return PyramidEncoder(body, channels=info.channels(), strides=info.reduction(), channels_last=channels_last)


def is_pyramid(name: str) -> bool:
    """Whether `create_pyramid` may know `name`."""
    return name in PYRAMIDS or bool(timm.is_model(name))


def _timm_pyramid(name: str, strides: Sequence[int], *, pretrained: bool, args: dict[str, Any]) -> nn.Module:
    """timm's `features_only` model at `strides`; Swin gets a free image size."""
    if timm.models.is_model_in_modules(name, ("swin_transformer", "swin_transformer_v2")):
        args = {"strict_img_size": False, **args}
    known = build_timm(name, pretrained=False, features_only=True, **args).feature_info.reduction()
    if any(stride not in known for stride in strides):
        raise UserError(f"{name} gives maps at strides {tuple(known)}, but {tuple(strides)} are needed")
    indices = tuple(known.index(stride) for stride in strides)
    return build_timm(name, pretrained=pretrained, features_only=True, out_indices=indices, **args)  # type: ignore[no-any-return]
