"""timm's naming of a plain ViT (ViT, DeiT, BEiT, DINO ...) in ours, and timm's own weights by name."""

from collections.abc import Mapping
from pathlib import Path

import timm
from torch import Tensor

from densevit.models.encoders import build_timm, create_vit
from densevit.models.vit import ViTEncoder
from densevit.weights.fit import PREFIX_TOKENS
from densevit.weights.rename import rename

HUB_PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:")


def is_timm_vit(tensors: Mapping[str, Tensor]) -> bool:
    return "patch_embed.proj.weight" in tensors


def from_timm_vit(tensors: Mapping[str, Tensor], encoder: ViTEncoder) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in `encoder`'s naming (and every prefix token, for the layout of the positions), and the names not used.

    Knows BEiT's tables (one per block, or one that pretraining shared between all) and DeiT III's layer scales.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("relative_position_index")}
    shared = tensors.pop("rel_pos_bias.relative_position_bias_table", None)
    if shared is not None:
        tensors |= {f"blocks.{i}.attn.relative_position_bias_table": shared for i in range(encoder.depth)}
    own = encoder.state_dict()
    has_scales = any(".ls1.gamma" in name for name in own)
    renamed, _ = rename(
        tensors,
        [
            (r"blocks\.(\d+)\.attn\.relative_position_bias_table", r"relative_bias.tables.\1"),
            *([(r"blocks\.(\d+)\.gamma_(\d)", r"vit.blocks.\1.ls\2.gamma")] if has_scales else []),
            (r"(.+)", r"vit.\1"),
        ],
    )
    kept = {name: tensor for name, tensor in renamed.items() if name in own or name in PREFIX_TOKENS}
    return kept, [name.removeprefix("vit.") for name in renamed if name not in kept]


def fetch_timm(name: str) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """timm's weights of `name` (or "hf-hub:user/model") at their native size: tensors in timm's naming, (H, W) grid."""
    is_hub = name.startswith(HUB_PREFIXES)
    vit = build_timm(name, pretrained=True) if is_hub else create_vit(name, pretrained=True)
    grid = vit.patch_embed.grid_size
    return dict(vit.state_dict()), (int(grid[0]), int(grid[1]))


def is_timm_name(source: str | Path) -> bool:
    """True for "timm:NAME", "hf-hub:user/model" and a bare timm name that is no local file."""
    text = str(source)
    return text.startswith(("timm:", *HUB_PREFIXES)) or (not Path(text).exists() and timm.is_model(text))
