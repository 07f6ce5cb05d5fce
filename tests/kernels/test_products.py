"""Products of many rows with a small matrix: the kernel against float64, and who takes which."""

from ctypes import c_long, c_void_p

import pytest
import torch
import torch.nn.functional as F

from densevit.kernels import products
from densevit.kernels.library import call, library
from densevit.kernels.products import add_outer, linear, multiply, sum_of_products

SIZES = [
    (1, 1, 8), (6, 5, 16), (7, 96, 24), (193, 383, 40), (600, 385, 16), (5, 800, 48), (391, 24, 96),
    (0, 8, 8), (3, 0, 8),  # the last is PyTorch's
]  # fmt: skip


@pytest.fixture
def always(monkeypatch):
    """The kernel wherever it can be."""
    if library() is None:
        pytest.skip("no compiler for the kernels")
    monkeypatch.setattr(products, "IS_FASTER", True)
    monkeypatch.setattr(products, "FEWEST", 0)


def operands(rows, depth, width, *, transposed):
    torch.manual_seed(0)
    matrix = torch.randn(width, depth).t() if transposed else torch.randn(depth, width)
    return torch.randn(rows, depth), matrix, torch.randn(width), torch.randn(rows, width)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_equals_float64(size, transposed, always):
    x, matrix, bias, addend = operands(*size, transposed=transposed)
    exact = (x.double() @ matrix.double()).float()
    out, tolerance = torch.full_like(addend, torch.nan), {"rtol": 1e-5, "atol": 1e-4}
    multiply(x, matrix, out)
    torch.testing.assert_close(out, exact, **tolerance)
    multiply(x, matrix, out, bias=bias)
    torch.testing.assert_close(out, exact + bias, **tolerance)
    multiply(x, matrix, out, addend=addend)
    torch.testing.assert_close(out, exact + addend, **tolerance)
    out.copy_(addend)
    multiply(x, matrix, out, bias=bias, addend=out)
    torch.testing.assert_close(out, exact + bias + addend, **tolerance)


def test_the_same_on_any_threads(always):
    x, matrix, bias, _ = operands(401, 400, 24, transposed=True)
    results = []
    for threads in (1, 2, 5):
        results.append(torch.empty(401, 24))
        library().product(*pointers(x, matrix.t(), bias, None, results[-1]), *longs(401, 400, 24, 1, threads))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def pointers(*tensors):
    return [None if t is None else c_void_p(t.data_ptr()) for t in tensors]


def longs(*numbers):
    return [c_long(n) for n in numbers]


@torch.no_grad()
def test_layers_and_sums(always):
    x, weight, bias = torch.randn(2, 5, 7, 16), torch.randn(24, 16), torch.randn(24)
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias))
    strided = torch.randn(24, 3)[:, 0]
    torch.testing.assert_close(linear(x, weight, strided), F.linear(x, weight, strided))
    one = torch.ones(1)
    torch.testing.assert_close(linear(x, weight, one), F.linear(x, weight, one))
    sideways = x.permute(0, 2, 1, 3)
    torch.testing.assert_close(linear(sideways, weight), F.linear(sideways, weight))
    pairs = [(torch.randn(9, 8), torch.randn(8, 32)[:, ::2]) for _ in range(3)]
    torch.testing.assert_close(sum_of_products(pairs), sum(a @ b for a, b in pairs))


@pytest.mark.parametrize("is_faster", [True, False])
@torch.no_grad()
def test_takes_only_what_it_is_faster_at(is_faster, monkeypatch):
    seen = []
    monkeypatch.setattr(products, "IS_FASTER", is_faster)
    monkeypatch.setattr(products, "call", lambda name, *arguments: (seen.append(name), call(name, *arguments)))
    monkeypatch.setattr(products, "FEWEST", 9)
    for rows, depth, width, dtype in (
        (9, 8, 8, torch.float32),
        (8, 8, 8, torch.float32),  # too few rows
        (9, 8, 12, torch.float32),  # no whole vectors
        (9, 8, 8, torch.float64),
        (9, products.LARGEST // 8 + 1, 8, torch.float32),
    ):
        x, weight = torch.randn(1, 1, rows, depth, dtype=dtype), torch.randn(width, depth, dtype=dtype)
        expected = F.linear(x, weight)
        torch.testing.assert_close(linear(x, weight), expected, rtol=1e-4, atol=1e-2)
        out = torch.empty(rows, width, dtype=dtype)
        multiply(x.flatten(0, 2), weight.t(), out)
        torch.testing.assert_close(out, expected.flatten(0, 2), rtol=1e-4, atol=1e-2)
    assert seen == ["product"] * (2 if is_faster and library() is not None else 0)


@torch.no_grad()
def test_sizes_and_types_that_do_not_fit_are_refused_as_by_pytorch(always):
    x, weight = torch.randn(1, 3, 4, 12), torch.randn(16, 24)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(x, weight)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        multiply(x.flatten(0, 2), weight.t(), torch.empty(12, 16))
    x = torch.randn(12, 24)
    for out, more in (
        (torch.empty(12, 16, dtype=torch.float64), {}),
        (torch.empty(12, 16), {"bias": torch.randn(8)}),
        (torch.empty(12, 16), {"bias": torch.randn(16, dtype=torch.float64)}),
        (torch.empty(12, 16), {"addend": torch.randn(5, 16)}),
    ):
        with pytest.raises(RuntimeError):
            multiply(x, weight.t(), out, **more)


def test_records_gradients_by_pytorch(always):
    x, weight = torch.randn(1, 2, 3, 8), torch.randn(16, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum((0, 1, 2)).expand(16, 8))


class Wrapped(torch.Tensor):
    """As quantized weights are: other numbers than those at its address."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype)

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args = [arg.held if isinstance(arg, cls) else arg for arg in args]
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_leaves_subclasses_of_tensors_to_pytorch(always):
    x, weight = torch.randn(1, 2, 3, 8), torch.randn(16, 8)
    torch.testing.assert_close(linear(x, Wrapped(weight)), F.linear(x, weight))


def test_weights_gradients_are_not_autocast():
    rows, x = torch.randn(5, 3), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        total = add_outer(None, rows, x)
        assert total.dtype == torch.float32
        torch.testing.assert_close(add_outer(total, rows, x), 2 * rows.t().mm(x).float(), rtol=2e-2, atol=2e-2)
