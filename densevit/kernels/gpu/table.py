"""All kernels for a GPU by name: those of `densevit/kernels/source` and a few more, on float32 or bfloat16 maps.

Sums and statistics are float32; vectors (scales, shifts, biases) may be of either type.
"""

from densevit.kernels.gpu.attention import window_attention, window_attention_backward
from densevit.kernels.gpu.depthwise import depthwise
from densevit.kernels.gpu.depthwise_backward import depthwise_backward
from densevit.kernels.gpu.key_attention import key_attention, key_attention_backward
from densevit.kernels.gpu.norms import (
    add_gelu_backward,
    batch_norm,
    column_sums,
    gelu_backward,
    layer_norm_backward,
    norm_backward,
)
from densevit.kernels.gpu.pooling import pool_windows, pool_windows_backward
from densevit.kernels.gpu.position_bias import fits_position_bias, position_bias, position_bias_backward
from densevit.kernels.gpu.products import product
from densevit.kernels.gpu.rows import add_gelu, add_gelu_norm, add_norm, affine_gelu, norm_add
from densevit.kernels.gpu.stem import stem

__all__ = [
    "add_gelu",
    "add_gelu_backward",
    "add_gelu_norm",
    "add_norm",
    "affine_gelu",
    "batch_norm",
    "column_sums",
    "depthwise",
    "depthwise_backward",
    "fits_position_bias",
    "gelu_backward",
    "key_attention",
    "key_attention_backward",
    "layer_norm_backward",
    "norm_add",
    "norm_backward",
    "pool_windows",
    "pool_windows_backward",
    "position_bias",
    "position_bias_backward",
    "product",
    "stem",
    "window_attention",
    "window_attention_backward",
]
