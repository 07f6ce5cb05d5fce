"""The kernels as operators, `torch.ops.densevit.*`: `torch.compile` looks into no kernel, but keeps an operator.

What a kernel writes into is marked (a!) in its schema; everything else it only reads.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_AFFINE = "Tensor scale, Tensor shift"
_ROWS = "SymInt rows, int C"  # the batch may be of any size
_MAP = "SymInt B, int H, int W, int C"
_GROUP = "int[] y, int[] x_run"
_WINDOWS = f"SymInt B, int H, int W, int heads, int dim, {_GROUP}, float scale"
_LINES = "SymInt images, int H, int W, int image, int line, int step, int taps, int tap, int depth"
_KEYS = "Tensor q, int q_step, Tensor k, Tensor v, int kv_step, Tensor? bias"

SCHEMAS = {
    "affine_gelu": f"Tensor x, {_AFFINE}, Tensor(a!) out, {_ROWS}",
    "add_gelu": f"Tensor x, Tensor y, {_AFFINE}, Tensor(a!) out, {_ROWS}",
    "norm_add": "Tensor x, Tensor? shift, Tensor weight, Tensor bias, Tensor? residual, Tensor? factors, "
    f"Tensor(a!) out, {_ROWS}, SymInt per_image, float eps",
    "add_gelu_norm": f"Tensor(a!) x, Tensor(b!) y, {_AFFINE}, Tensor weight, Tensor bias, {_ROWS}, float eps",
    "add_norm": "Tensor x, Tensor y, Tensor weight, Tensor bias, Tensor(a!) total, Tensor(b!) normed, "
    f"{_ROWS}, float eps",
    "column_sums": f"Tensor x, Tensor(a!) sums, {_ROWS}",
    "product": "Tensor x, Tensor matrix, Tensor? bias, Tensor? addend, Tensor(a!) out, SymInt rows, int depth, "
    "int width, int transposed",
    "convolution": f"Tensor map, Tensor matrix, Tensor(a!) out, {_LINES}, int width, int out_image, int out_line, "
    "int out_step",
    "convolution_weight": f"Tensor map, Tensor grad, Tensor(a!) total, {_LINES}, int channels",
    "batch_norm": "Tensor x, Tensor gamma, Tensor beta, Tensor(a!) running_mean, Tensor(b!) running_var, "
    f"Tensor(c!) vectors, {_ROWS}, float momentum, float eps",
    "gelu_backward": f"Tensor x, {_AFFINE}, Tensor mean, Tensor(a!) grad, Tensor(b!)? output, Tensor(c!) sums, {_ROWS}",
    "add_gelu_backward": f"Tensor x, Tensor y, {_AFFINE}, Tensor mean, Tensor grad, Tensor(a!) grad_x, "
    f"Tensor(b!) sums, {_ROWS}",
    "norm_backward": "Tensor x, Tensor scale, Tensor mean, Tensor inverse_std, Tensor sums, Tensor grad, "
    f"Tensor(a!) grad_x, {_ROWS}, SymInt cells",
    "layer_norm_backward": "Tensor x, Tensor weight, Tensor grad, Tensor? factors, Tensor? addend, "
    f"Tensor(a!) grad_x, Tensor(b!) sums, {_ROWS}, SymInt per_image, float eps",
    "depthwise": "Tensor x, Tensor? scale, Tensor? shift, Tensor weight, Tensor? bias, Tensor? addend, "
    f"Tensor(a!) out, {_MAP}, int multiplier, int stride, int act",
    "depthwise_backward": "Tensor x, Tensor? scale, Tensor? shift, Tensor? mean, Tensor weight, Tensor grad, "
    f"Tensor(a!) grad_x, Tensor(b!) sums, {_MAP}, int multiplier, int stride",
    "pool_windows": f"Tensor x, Tensor(a!) out, {_MAP}, {_GROUP}, int place, int down, int across",
    "pool_windows_backward": f"Tensor grad, Tensor addend, Tensor(a!) grad_x, {_MAP}, {_GROUP}, "
    "int place, int down, int across",
    "window_attention": "Tensor q, Tensor k, Tensor v, Tensor? q_shift, Tensor? k_shift, Tensor? v_shift, "
    f"Tensor? bias, Tensor(a!) out, {_WINDOWS}",
    "window_attention_backward": "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor grad, "
    f"Tensor? addend, Tensor(a!) grad_q, Tensor(b!)? grad_k, Tensor(c!) grad_v, Tensor(d!)? grad_bias, {_WINDOWS}",
    "position_bias": "Tensor y, Tensor x, Tensor index_y, Tensor index_x, Tensor[] weights, Tensor(a!) table, "
    "Tensor(b!) bias, float eps, int[] sizes",
    "position_bias_backward": "Tensor y, Tensor x, Tensor query_y, Tensor query_x, Tensor[] weights, Tensor grad, "
    "Tensor(a!) sums, float eps, int[] sizes",
    "stem": f"Tensor x, Tensor weight, {_AFFINE}, Tensor matrix, Tensor scale2, Tensor shift2, Tensor(a!) out, {_MAP}",
    "key_attention": f"{_KEYS}, Tensor(a!) out, SymInt B, int N, int M, int heads, int dim, float scale",
    "key_attention_backward": f"{_KEYS}, Tensor grad, Tensor(a!) grad_q, Tensor(b!) grad_kv, Tensor(c!)? grad_bias, "
    "SymInt B, int N, int M, int heads, int dim, SymInt parts, float scale",
}
"""Arguments of each kernel."""


def register(run: Callable[..., None]) -> None:
    """`torch.ops.densevit.<kernel>(...)` calls `run(kernel, ...)`."""
    for name, arguments in SCHEMAS.items():
        torch.library.define(f"densevit::{name}", f"({arguments}) -> ()", tags=torch.Tag.needs_exact_strides)
        torch.library.impl(f"densevit::{name}", "CompositeExplicitAutograd", _implementation(name, run))
        torch.library.register_fake(f"densevit::{name}", lambda *_: None)


def register_new_map(kept_map: Callable[[Sequence[int], torch.dtype], Tensor]) -> None:
    """On a CPU `torch.ops.densevit.new_map(shape, dtype)`: what is compiled takes its maps from kept memory too."""
    torch.library.define("densevit::new_map", "(SymInt[] shape, ScalarType dtype) -> Tensor")
    torch.library.impl("densevit::new_map", "CompositeExplicitAutograd", kept_map)
    torch.library.register_fake("densevit::new_map", lambda shape, dtype: torch.empty(shape, dtype=dtype, device="cpu"))


def as_operator(schema: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function that takes a batch in parts is one operator to a compiler, which would write out every part.

    `schema` is that of `torch.library`, `fake` gives empty results of the same shapes, strides and types.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        torch.library.define(f"densevit::{name}", schema, tags=torch.Tag.needs_exact_strides)
        torch.library.impl(f"densevit::{name}", "CompositeExplicitAutograd", function)
        torch.library.register_fake(f"densevit::{name}", fake)
        operator = getattr(torch.ops.densevit, name)

        @wraps(function)
        def run(*arguments: Any) -> Any:
            return operator(*arguments) if torch.compiler.is_compiling() else function(*arguments)

        return run

    return decorate


def _implementation(name: str, run: Callable[..., None]) -> Callable[..., None]:
    def operator(*arguments: Any) -> None:
        run(name, *(tuple(x) if isinstance(x, list) else x for x in arguments))

    return operator
