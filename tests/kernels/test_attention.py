"""Attention by the kernels equals softmax(q k / sqrt(d) + bias) v written out in float64, values and gradients."""

import pytest
import torch

from densevit.kernels.attention import infer_windows, key_attention, window_attention_beside
from densevit.models.windows import window_grid

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def plain(q, k, v, bias, num_heads):
    """(B, N, C), (B, M, C), (heads, N, M) -> (B, N, C)."""
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
    return ((scores if bias is None else scores + bias).softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def leaves(*tensors):
    return [None if t is None else t.double().requires_grad_() for t in tensors], [
        None if t is None else t.clone().requires_grad_() for t in tensors
    ]


def assert_same(ours, expected, mine, theirs):
    torch.testing.assert_close(ours.double(), expected, **CLOSE)
    grad = torch.randn(ours.shape)
    ours.backward(grad)
    expected.backward(grad.double())
    for a, b in zip(mine, theirs, strict=True):
        if a is not None:
            torch.testing.assert_close(a.grad.double(), b.grad, **CLOSE)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("heads", "width"), [(1, 8), (3, 16), (2, 24), (2, 32)])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 3), (50, 49), (101, 64), (13, 200)])
def test_on_keys(queries, keys, heads, width, with_bias):
    torch.manual_seed(0)
    C = heads * width
    bias = torch.randn(1, heads, queries, keys) if with_bias else None
    theirs, mine = leaves(torch.randn(2, queries, C), torch.randn(2, keys, C), torch.randn(2, keys, C), bias)
    expected = plain(*theirs, heads)
    assert_same(key_attention(*mine, num_heads=heads), expected, mine, theirs)


def test_on_parts_of_a_wider_map():
    torch.manual_seed(0)
    qkv = torch.randn(2, 9, 96)
    parts = qkv.chunk(3, dim=-1)
    expected = plain(*(t.double() for t in parts), None, 2)
    torch.testing.assert_close(key_attention(*parts, None, num_heads=2).double(), expected, **CLOSE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["query", "key", "value", "bias"])
def test_what_is_no_number_stays_so(place, value):
    torch.manual_seed(0)
    tensors = {"query": torch.rand(1, 11, 16), "key": torch.rand(1, 13, 16), "value": torch.rand(1, 13, 16)}
    tensors["bias"] = torch.rand(1, 2, 11, 13)
    tensors[place][..., 3, :] = value  # of bias: all keys of a query
    expected = plain(*tensors.values(), 2)
    ours = key_attention(*tensors.values(), num_heads=2)
    assert place == "key" or not expected.isfinite().all()
    torch.testing.assert_close(ours, expected, equal_nan=True)


def cells_by_window(grid):
    """For each group the (windows, tokens, 2) cells, token by token as the rule of `densevit.models.windows` says."""
    for run_y, run_x in grid.groups:
        axes = []
        for run in (run_y, run_x):
            span = run.rows * run.dilation
            starts = [run.start + b * span + run.offset + i for b in range(run.blocks) for i in range(run.width)]
            axes.append([[start + t * run.dilation for t in range(run.tokens)] for start in starts])
        yield torch.tensor([[(y, x) for y in ys for x in xs] for ys in axes[0] for xs in axes[1]])


def plain_windows(q, k, v, grid, biases, num_heads):
    out = torch.zeros_like(q)
    for cells, bias in zip(cells_by_window(grid), biases, strict=True):
        for window in cells:
            y, x = window.unbind(1)
            out[:, y, x] = plain(q[:, y, x], k[:, y, x], v[:, y, x], bias, num_heads)
    return out


GRIDS = [
    ((7, 7), 7, 1),
    ((14, 21), 7, 1),
    ((14, 14), 7, "span"),
    ((10, 17), 7, "span"),
    ((9, 13), 4, 2),
    ((3, 5), 7, 1),
]


@pytest.mark.parametrize(("own_key", "with_bias"), [(False, True), (True, True), (False, False)])
@pytest.mark.parametrize(("size", "window", "dilation"), GRIDS)
def test_in_windows(size, window, dilation, own_key, with_bias):
    torch.manual_seed(0)
    grid, heads, C = window_grid(size, window_size=window, dilation=dilation), 2, 32
    tokens = [run_y.tokens * run_x.tokens for run_y, run_x in grid.groups]
    biases = [torch.randn(1, heads, T, T) if with_bias else None for T in tokens]
    maps = [torch.randn(2, *size, C) for _ in range(2 + own_key)]
    theirs, mine = leaves(*maps, *biases)

    def on(function, q, v, *rest):
        key, rest = (rest[0], rest[1:]) if own_key else (q, rest)
        return function(q, key, v, rest)

    expected = on(lambda q, k, v, b: plain_windows(q, k, v, grid, b, heads), *theirs)
    ours = on(lambda q, k, v, b: window_attention_beside(q, k, v, grid.groups, b, num_heads=heads)[1], *mine)
    assert_same(ours, expected, mine, theirs)


@pytest.mark.parametrize("own_key", [False, True])
def test_a_query_in_use_elsewhere_has_both_gradients(own_key):
    torch.manual_seed(0)
    grid = window_grid((9, 5), window_size=4)
    theirs, mine = leaves(*(torch.randn(2, 9, 5, 16) for _ in range(2 + own_key)))
    nothing = [None] * len(grid.groups)

    def expected(q, v, k=None):
        return plain_windows(q, q if k is None else k, v, grid, nothing, 2) + q.sin()

    def ours(q, v, k=None):
        q, local = window_attention_beside(q, q if k is None else k, v, grid.groups, nothing, num_heads=2)
        return local + q.sin()

    assert_same(ours(*mine), expected(*theirs), mine, theirs)
    q, _ = window_attention_beside(mine[0], mine[0], mine[1], grid.groups, nothing, num_heads=2)
    (by_q,) = torch.autograd.grad(q.sum(), mine[:1])
    assert torch.equal(by_q, torch.ones_like(by_q))


def test_shifts_are_added_on_the_way():
    torch.manual_seed(0)
    grid, shifts = window_grid((8, 9), window_size=4), tuple(torch.randn(16) for _ in range(3))
    q, k, v = (torch.randn(1, 8, 9, 16) for _ in range(3))
    nothing = [None] * len(grid.groups)
    shifted = [t + shift for t, shift in zip((q, k, v), shifts, strict=True)]
    expected = infer_windows(*shifted, grid.groups, nothing, num_heads=2)
    torch.testing.assert_close(
        infer_windows(q, k, v, grid.groups, nothing, num_heads=2, shifts=shifts), expected, **CLOSE
    )


def test_large_scores_do_not_overflow():
    q, k, v = torch.full((1, 2, 8), 100.0), torch.full((1, 3, 8), 100.0), torch.randn(1, 3, 8)
    k[:, 1] = -100
    out = key_attention(q, k, v, None, num_heads=1)
    torch.testing.assert_close(out, v[:, [0, 2]].mean(dim=1, keepdim=True).expand(1, 2, 8), **CLOSE)
