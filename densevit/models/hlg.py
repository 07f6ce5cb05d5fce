"""HLG, the hierarchical local-global transformer (Sec. 3.3, Table 1): images -> logits or maps at strides 4 to 32.

    model = create_hlg("hlg_small", num_classes=10)             # (B, 3, H, W) -> (B, 10), any H x W
    encoder = create_hlg("hlg_small", features_only=True)       # (B, 3, H, W) -> four maps (B, C, H / s, W / s)

Shapes: B batch, H W image or map, C channels. Inside, maps are (B, H, W, C); see `hlg_layer`.
"""

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, cast

import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from densevit.errors import unknown_name
from densevit.kernels.bfloat16 import worthwhile_autocast
from densevit.models.checkpointing import checkpointed
from densevit.models.conv_norm import ConvNorm, in_cached_parts, in_sequence
from densevit.models.hlg_arguments import (
    check_flags,
    check_images,
    check_num_classes,
    check_numbers,
    check_pool,
    check_widths,
    stage_dilations,
    stage_indices,
)
from densevit.models.hlg_kernels import infer_layer, infer_stem, takes_layer, takes_stem
from densevit.models.hlg_layer import HLGLayer
from densevit.models.hlg_train_kernels import takes_training, train_layer
from densevit.models.infer_blocks import infer_blocks
from densevit.models.infer_blocks import takes as takes_blocks
from densevit.models.untouched import made_of

STRIDES = (4, 8, 16, 32)

HLG_VARIANTS: dict[str, dict[str, Any]] = {
    "hlg_mobile": {"embed_dims": (48, 96, 192, 384), "num_heads": (2, 4, 8, 16), "depths": (2, 2, 2, 2)},
    "hlg_tiny": {"embed_dims": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16), "depths": (2, 2, 6, 2)},
    "hlg_small": {"embed_dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24), "depths": (2, 2, 6, 2)},
    "hlg_medium": {"embed_dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24), "depths": (2, 2, 18, 2)},
    "hlg_large": {"embed_dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32), "depths": (2, 2, 18, 2)},
}
"""Table 1, with 18 layers in stage 3 of Medium and Large: the printed 14 fits no other table of the paper."""

DEPTHS_AS_PRINTED = (2, 2, 14, 2)
"""Table 1's depths of Medium and Large as printed; `create_hlg("hlg_large", depths=DEPTHS_AS_PRINTED)` has 70.5 M."""


class Stem(nn.Sequential):
    """(B, H, W, 3) -> (B, ceil(H / 4), ceil(W / 4), C): 3x3 stride 2, 1x1, 3x3 stride 2, each with BN and GELU."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__(
            ConvNorm(in_chans, dim, kernel_size=3, stride=2),
            ConvNorm(dim, dim),
            ConvNorm(dim, dim, kernel_size=3, stride=2),
        )
        self.dim = dim
        self.made = made_of(self)

    def forward(self, x: Tensor) -> Tensor:
        return in_sequence(x, *self)

    def peak(self, x: Tensor) -> int:
        """Elements of the largest map in between, per image."""
        return x.shape[1] * x.shape[2] * self.dim // 4


class HLG(nn.Module):
    """The HLG backbone. `forward` gives logits (B, K), or with `features_only` a list of maps at `out_indices`."""

    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        num_heads: Sequence[int],
        depths: Sequence[int],
        in_chans: int = 3,
        num_classes: int = 1000,
        features_only: bool = False,
        global_pool: str = "avg",
        out_indices: int | Sequence[int] = (0, 1, 2, 3),
        window_size: int = 7,
        dilation: int | str | Sequence[int] = "span",
        window_embedding: str = "avgpool",
        local_key: str = "query",
        position_bias: bool = True,
        mlp_ratio: float = 4.0,
        squeeze_excite: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_widths(embed_dims, num_heads, depths)
        check_numbers(
            in_chans=in_chans,
            num_classes=num_classes,
            window_size=window_size,
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
        check_flags(
            features_only=features_only,
            position_bias=position_bias,
            squeeze_excite=squeeze_excite,
            grad_checkpointing=grad_checkpointing,
        )
        dims, rates = tuple(embed_dims), [drop_path_rate * i / max(sum(depths) - 1, 1) for i in range(sum(depths))]
        dilations = stage_dilations(dilation)
        self.in_chans, self.num_classes = in_chans, num_classes
        self.num_features = self.head_hidden_size = dims[-1]
        self.features_only, self.grad_checkpointing = features_only, grad_checkpointing
        self.stem = Stem(in_chans, dims[0])
        self.out_indices = stage_indices(out_indices) if features_only else (3,)
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths[: max(self.out_indices) + 1]):  # what nothing is read of is not made
            layers = nn.ModuleList(
                HLGLayer(
                    dims[max(stage - 1, 0)] if index == 0 else dims[stage],
                    dims[stage],
                    num_heads=num_heads[stage],
                    stride=2 if index == 0 and stage > 0 else 1,
                    full_attention=stage == 3,
                    window_size=window_size,
                    dilation=1 if index % 2 == 0 else dilations[stage],
                    window_embedding=window_embedding,
                    local_key=local_key,
                    position_bias=position_bias,
                    mlp_ratio=mlp_ratio,
                    squeeze_excite=squeeze_excite,
                    drop_path=rates[sum(depths[:stage]) + index],
                )
                for index in range(depth)
            )
            self.stages.append(layers)
        self.norms = nn.ModuleDict({str(index): nn.LayerNorm(dims[index]) for index in self.out_indices})
        self.feature_info = FeatureInfo(
            [{"num_chs": dims[i], "reduction": STRIDES[i], "module": f"stages.{i}"} for i in range(4)],
            self.out_indices,
        )
        self.head_drop = nn.Dropout(drop_rate)
        check_pool(global_pool, 0)
        self.global_pool = global_pool
        self.head: nn.Module = nn.Identity()
        if not features_only:
            self.reset_classifier(num_classes)
        self.initialize()
        self.to(memory_format=torch.channels_last)

    def initialize(self) -> None:
        """Draw all weights afresh."""
        self.apply(_init_weights)

    def _maps(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> the normed maps (B, h, w, C) of `out_indices`."""
        check_images(images, self.in_chans)
        for side in images.shape[2:]:
            index(side)  # to a compiler a number from here on: each size has code of its own
        x, maps = images.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1), []
        with worthwhile_autocast(x.device, keep_narrow=not self.grad_checkpointing):
            for stage in range(max(self.out_indices) + 1):
                x = self._layers(x, stage)
                if stage in self.out_indices:
                    maps.append(self.norms[str(stage)](x))
        return maps

    def _layers(self, x: Tensor, stage: int) -> Tensor:
        if stage == 0:
            x = self._stemmed(x)
        for layer in cast(Iterable[HLGLayer], self.stages[stage]):
            if self.grad_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpointed(_run, layer, x)
            else:
                x = _run(layer, x)
        return x

    def _stemmed(self, x: Tensor) -> Tensor:
        if type(self.stem) is not Stem:
            return self.stem(x)
        if takes_stem(self.stem, x):
            return infer_stem(self.stem, x)
        if takes_blocks(self.stem, x):
            return infer_blocks(self.stem, x, peak=self.stem.peak(x))
        return in_cached_parts(self.stem, x, peak=self.stem.peak(x))

    def forward_features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the last map, normed, (B, C, H / 32, W / 32)."""
        return self._maps(images)[-1].permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map (B, C, h, w) -> logits (B, K): mean over tokens, Linear; `pre_logits` stops before the Linear."""
        x = self.head_drop(x.mean(dim=(2, 3)) if self.global_pool else x)
        return x if pre_logits else self.head(x)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        if self.features_only:
            return [x.permute(0, 3, 1, 2) for x in self._maps(images)]
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        """The last layer, as timm calls it."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier on top; 0 classes leave the pooled features, or with `global_pool` "" the map."""
        check_num_classes(num_classes)
        pool = self.global_pool if global_pool is None else global_pool
        check_pool(pool, num_classes)
        self.num_classes, self.global_pool = num_classes, pool
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        _init_weights(self.head)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong together, for timm's layer decay: stem, each layer (`coarse`: stage), the rest."""
        return {"stem": "^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each layer's input in training and compute the rest again in the backward pass."""
        self.grad_checkpointing = enable


def _run(layer: HLGLayer, x: Tensor) -> Tensor:
    """layer(x), by the kernels where they take it."""
    if takes_layer(layer, x):
        return infer_layer(layer, x)
    return train_layer(layer, x) if takes_training(layer, x) else layer(x)


def _init_weights(module: nn.Module) -> None:
    """Linear: truncated normal, 0.02; convolutions: normal with the fan-out's variance; biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def create_hlg(name: str, num_classes: int = 1000, features_only: bool = False, **kwargs: Any) -> HLG:
    """Build `hlg_mobile`, `hlg_tiny`, `hlg_small`, `hlg_medium` or `hlg_large`; `kwargs` are those of `HLG`."""
    if name not in HLG_VARIANTS:
        raise unknown_name("HLG variant", name, HLG_VARIANTS)
    return HLG(**{**HLG_VARIANTS[name], "num_classes": num_classes, "features_only": features_only, **kwargs})
