"""The original ViT files (.npz, JAX; Dosovitskiy et al., 2021) in timm's naming.

Shapes: C embed_dim, A heads, d head_dim. JAX keeps a dense kernel as (in, out) and a convolution as (h, w, in, out).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from densevit.weights.rename import rename

PREFIXES = ("", "opt/target/", "params/")


def is_jax_vit(tensors: Mapping[str, Tensor]) -> bool:
    return any(f"{prefix}embedding/kernel" in tensors for prefix in PREFIXES)


def from_jax_vit(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors in timm's naming, and the names not used (the classifier, the pre-logits layer)."""
    prefix = next(p for p in PREFIXES if f"{p}embedding/kernel" in tensors)
    arrays = {name.removeprefix(prefix): tensor.float() for name, tensor in tensors.items()}
    for i in range(sum(name.endswith("MultiHeadDotProductAttention_1/query/kernel") for name in arrays)):
        _merge_attention(arrays, f"Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/")
    for name, array in arrays.items():
        if name.endswith("/kernel"):
            arrays[name] = array.permute(3, 2, 0, 1) if array.ndim == 4 else array.t()
    block = r"Transformer/encoderblock_(\d+)/"
    leaf = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    return rename(
        arrays,
        [
            ("cls", "cls_token"),
            ("Transformer/posembed_input/pos_embedding", "pos_embed"),
            (r"embedding/(kernel|bias)", lambda m: f"patch_embed.proj.{leaf[m[1]]}"),
            (r"Transformer/encoder_norm/(scale|bias)", lambda m: f"norm.{leaf[m[1]]}"),
            (block + r"LayerNorm_0/(scale|bias)", lambda m: f"blocks.{m[1]}.norm1.{leaf[m[2]]}"),
            (block + r"LayerNorm_2/(scale|bias)", lambda m: f"blocks.{m[1]}.norm2.{leaf[m[2]]}"),
            (block + r"MultiHead\w+_1/qkv/(kernel|bias)", lambda m: f"blocks.{m[1]}.attn.qkv.{leaf[m[2]]}"),
            (block + r"MultiHead\w+_1/out/(kernel|bias)", lambda m: f"blocks.{m[1]}.attn.proj.{leaf[m[2]]}"),
            (block + r"MlpBlock_3/Dense_0/(kernel|bias)", lambda m: f"blocks.{m[1]}.mlp.fc1.{leaf[m[2]]}"),
            (block + r"MlpBlock_3/Dense_1/(kernel|bias)", lambda m: f"blocks.{m[1]}.mlp.fc2.{leaf[m[2]]}"),
        ],
    )


def _merge_attention(arrays: dict[str, Tensor], at: str) -> None:
    """Join query, key, value: three (C, A, d) kernels -> one (C, 3 * A * d); flatten the output's (A, d, C)."""
    parts = ("query", "key", "value")
    arrays[f"{at}qkv/kernel"] = torch.cat([arrays.pop(f"{at}{part}/kernel").flatten(1) for part in parts], dim=1)
    arrays[f"{at}qkv/bias"] = torch.cat([arrays.pop(f"{at}{part}/bias").flatten() for part in parts])
    arrays[f"{at}out/kernel"] = arrays[f"{at}out/kernel"].flatten(0, 1)
