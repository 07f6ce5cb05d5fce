"""ViT and DeiT files of the transformers library (such as google/vit-large-patch16-384) in timm's naming."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from densevit.weights.rename import rename

PATCHES = "embeddings.patch_embeddings.projection.weight"


def is_huggingface_vit(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.endswith(PATCHES) for name in tensors)


def from_huggingface_vit(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in timm's naming, and the names not used (classifiers, the pooler)."""
    prefix = next(name for name in tensors if name.endswith(PATCHES)).removesuffix(PATCHES)
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    layer = r"encoder\.layer\.(\d+)\."
    for name in list(bare):
        match = re.fullmatch(layer + r"attention\.attention\.query\.(weight|bias)", name)
        if match:  # three (C, C) projections become one (3C, C)
            at = name.removesuffix(f"query.{match[2]}")
            bare[f"{at}qkv.{match[2]}"] = torch.cat(
                [bare.pop(f"{at}{x}.{match[2]}") for x in ("query", "key", "value")]
            )
    return rename(
        bare,
        [
            (r"embeddings\.cls_token", "cls_token"),
            (r"embeddings\.distillation_token", "dist_token"),
            (r"embeddings\.position_embeddings", "pos_embed"),
            (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
            (layer + r"layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
            (layer + r"layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
            (layer + r"attention\.attention\.qkv\.(.+)", r"blocks.\1.attn.qkv.\2"),
            (layer + r"attention\.output\.dense\.(.+)", r"blocks.\1.attn.proj.\2"),
            (layer + r"intermediate\.dense\.(.+)", r"blocks.\1.mlp.fc1.\2"),
            (layer + r"output\.dense\.(.+)", r"blocks.\1.mlp.fc2.\2"),
            (r"layernorm\.(.+)", r"norm.\1"),
        ],
    )
