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
SWIN_FILES = ("swin_transformer", "swin_transformer_v2")
"""timm's files whose models take any image size only if told to."""


class PyramidEncoder(nn.Module):
    """Images (B, C, H, W) -> maps of `channels[i]` at `strides[i]`, from fine to coarse, always (B, C, H, W)."""

    def __init__(
        self,
        body: nn.Module,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        channels_last: bool = False,
        name: str = "",
        fixed_size: tuple[int, int] | None = None,
    ):
        """`channels_last`: `body` gives (B, H, W, C) maps that end without a norm, as Swin's; each gets a LayerNorm.

        `name` and `fixed_size`, the image size that `body` may be bound to, serve the message when it refuses images.
        """
        super().__init__()
        self.body = body
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.name, self.fixed_size = name, fixed_size
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if channels_last else None

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body(images) if self.fixed_size is None else self._bound_to_a_size(images)
        if self.norms is None:
            return list(maps)
        return [norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps, strict=True)]

    def _bound_to_a_size(self, images: Tensor) -> Any:
        try:
            return self.body(images)
        except (AssertionError, RuntimeError) as error:
            given = (images.shape[2], images.shape[3])
            if given == self.fixed_size or "memory" in str(error):
                raise
            raise UserError(
                f"{self.name} is built for images of {self.fixed_size} and does not take {given} (height and width, "
                f"padded to multiples of {self.strides[-1]}); train and test at one size, given as encoder_args "
                "img_size, or choose an encoder for any size, such as swin_tiny"
            ) from error


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

    `encoder_args` go to `HLG` or to timm as they are; `output_stride` among them dilates a timm network, whose strides
    are then such as (4, 8, 8, 8). UserError for an unknown name, one without these strides, arguments that do not fit,
    and for `pretrained` with HLG, whose weights are a file (`densevit fit --model.pretrained FILE`).
    """
    if not is_pyramid(name):
        raise unknown_name("pyramid encoder", name, [*PYRAMIDS, *timm.list_models()])
    args: dict[str, Any] = {"in_chans": in_channels, **(encoder_args or {})}
    if drop_path_rate:
        args["drop_path_rate"] = drop_path_rate
    if name in HLG_VARIANTS:
        if pretrained:
            raise UserError(f"{name} has no published weights; give a file: model.pretrained=PATH")
        return _hlg_pyramid(name, strides, args=args, grad_checkpointing=grad_checkpointing)
    return _timm_pyramid(name, strides, pretrained=pretrained, args=args, grad_checkpointing=grad_checkpointing)


def is_pyramid(name: str) -> bool:
    """Whether `create_pyramid` may know `name`."""
    return name in PYRAMIDS or bool(timm.is_model(name))


def _hlg_pyramid(
    name: str, strides: Sequence[int], *, args: Mapping[str, Any], grad_checkpointing: bool
) -> PyramidEncoder:
    indices = _indices(name, STRIDES, strides)
    try:
        body = create_hlg(name, features_only=True, out_indices=indices, num_classes=0, **args)
    except UserError:
        raise
    except (TypeError, ValueError, IndexError) as error:
        given = {key: value for key, value in args.items() if key != "in_chans"}
        raise UserError(f"encoder_args {given} do not fit {name}: {error}") from error
    body.set_grad_checkpointing(grad_checkpointing or body.grad_checkpointing)
    return PyramidEncoder(body, channels=body.feature_info.channels(), strides=strides, name=name)


def _timm_pyramid(
    name: str, strides: Sequence[int], *, pretrained: bool, args: dict[str, Any], grad_checkpointing: bool
) -> PyramidEncoder:
    known_as = PYRAMIDS.get(name, name)
    if timm.models.is_model_in_modules(known_as, SWIN_FILES):
        args = {"strict_img_size": False, **args}
    body = build_timm(known_as, pretrained=False, features_only=True, **args)
    indices = _indices(name, body.feature_info.reduction(), strides)
    if len(indices) < len(body.feature_info.reduction()):
        body = build_timm(known_as, pretrained=False, features_only=True, out_indices=indices, **args)
    if pretrained:
        _fill(body, build_timm(known_as, pretrained=True, **args), name)
    if grad_checkpointing:
        body.set_grad_checkpointing(True)
    return PyramidEncoder(
        body,
        channels=body.feature_info.channels(),
        strides=strides,
        channels_last=str(getattr(body, "output_fmt", "")).endswith("NHWC"),
        name=name,
        fixed_size=_fixed_size(known_as, args),
    )


def _fill(body: nn.Module, whole: nn.Module, name: str) -> None:
    """Copy a whole model into its feature extractor; timm itself would not check that every tensor is filled."""
    own = body.state_dict()
    tensors, _ = match_names(whole.state_dict(), own)
    missing = [key for key in own if key not in tensors]
    if missing:
        raise UserError(f"timm's weights for {name} lack {missing[0]} of its feature maps; give pretrained=False")
    body.load_state_dict(tensors)


def _indices(name: str, known: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Positions of `strides` among the `known` ones, matched from the coarse end; UserError where one is missing."""
    indices: list[int] = []
    end = len(known)
    for stride in reversed(strides):
        end = max((i for i in range(end) if known[i] == stride), default=-1)
        if end < 0:
            raise UserError(
                f"{name} gives maps at strides {', '.join(map(str, known))}, but {', '.join(map(str, strides))} are "
                "needed; choose a pyramid such as resnet50, swin_tiny or hlg_tiny"
            )
        indices.append(end)
    return tuple(reversed(indices))


def _fixed_size(name: str, args: Mapping[str, Any]) -> tuple[int, int] | None:
    """The image size that a timm model may be bound to; None for those that take any."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size or "strict_img_size" in args:
        return None
    size = args.get("img_size", config.input_size[1:])
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def match_names(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a whole model under the names of its feature extractor, and the names that it does not have.

    timm's extractors flatten containers ("layers.0" -> "layers_0") or wrap the model ("model.layers.0").
    """
    by_key = {_key(name): name for name in own}
    matched = {by_key[key]: tensor for name, tensor in tensors.items() if (key := _key(name)) in by_key}
    return matched, [name for name in tensors if _key(name) not in by_key]


def _key(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")
