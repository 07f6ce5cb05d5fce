"""Gradients of full 3x3 convolutions: the kernels against float64, and who takes which."""

import pytest
import torch
import torch.nn.functional as F

from densevit.kernels import convolutions, products
from densevit.kernels.library import call, library
from densevit.models.conv_gradients import conv_gradients


@pytest.fixture
def always(monkeypatch):
    if library() is None:
        pytest.skip("no compiler for the kernels")
    monkeypatch.setattr(products, "IS_FASTER", True)


def operands(B, H, W, C, channels, stride):
    torch.manual_seed(0)
    grad = torch.randn(B, channels, -(-H // stride), -(-W // stride))
    return grad, torch.randn(B, C, H, W), torch.randn(channels, C, 3, 3)


def exact(grad, x, weight, stride):
    x, weight = x.double().requires_grad_(), weight.double().requires_grad_()
    F.conv2d(x, weight, None, stride, 1).backward(grad.double())
    return x.grad.float(), weight.grad.float(), grad.double().sum(dim=(0, 2, 3)).float()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 8, 8), (2, 2, 3, 8, 16), (1, 1, 9, 16, 8), (3, 14, 14, 24, 40), (2, 5, 57, 40, 24), (1, 6, 4, 176, 200),
     (2, 33, 20, 8, 8)],
)  # fmt: skip
def test_equals_float64(size, stride, always, monkeypatch):
    seen = []
    monkeypatch.setattr(convolutions, "call", lambda name, *arguments: (seen.append(name), call(name, *arguments)))
    grad, x, weight = operands(*size, stride)
    results = conv_gradients(grad, x, weight, has_bias=True, stride=stride)
    for result, expected in zip(results, exact(grad, x, weight, stride), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=2e-4)
    assert set(seen) == {"convolution", "convolution_weight"}
    without_x = conv_gradients(grad, x, weight, has_bias=True, stride=stride, needs_x=False)
    assert torch.equal(without_x[1], results[1])


def test_maps_that_lie_otherwise(always):
    grad, x, weight = operands(2, 7, 6, 8, 16, 1)
    expected = conv_gradients(grad, x, weight, has_bias=True, stride=1)
    last, turned = {"memory_format": torch.channels_last}, weight.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    results = conv_gradients(grad.contiguous(**last), x.contiguous(**last), turned, has_bias=True, stride=1)
    for result, value in zip(results, expected, strict=True):
        assert torch.equal(result, value)


def test_the_same_on_any_threads(always, monkeypatch):
    grad, x, _ = operands(3, 9, 11, 24, 40, 1)
    lines, cells = convolutions.padded(x.permute(0, 2, 3, 1), before=1), grad.permute(0, 2, 3, 1).contiguous()
    matrix, results = torch.randn(9 * 24, 16), []
    image, line, cell, _ = lines.stride()
    for threads in (1, 2, 5):
        out, total = torch.full((3, 9, 11, 16), torch.nan), torch.full((40, 3, 3, 24), torch.nan)
        steps = (3, 9, 11, image, line, cell, 3, line, 72)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        call("convolution", lines, matrix, out, *steps, 16, *out.stride()[:3])
        call("convolution_weight", lines, cells, total, *steps, 40)
        results.append((out, total))
    for out, total in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(total, results[0][1])


def test_takes_only_what_it_is_faster_at(always, monkeypatch):
    grad, x, weight = (torch.randn(size) for size in ((2, 5, 5, 8), (2, 5, 5, 16), (8, 16, 3, 3)))
    assert convolutions.takes(grad, x, weight, 1)
    assert not convolutions.takes(grad, x, torch.randn(8, 16, 5, 5), 1)
    assert not convolutions.takes(grad, x, torch.randn(8, 1, 3, 3), 1)  # depth-wise
    assert not convolutions.takes(grad[..., :4], x, weight[:4], 1)  # no whole vectors
    assert not convolutions.takes(grad, x[..., :12], weight[:, :12], 1)
    assert not convolutions.takes(grad, x, weight, 3)
    assert not convolutions.takes(grad.double(), x.double(), weight.double(), 1)
    assert not convolutions.takes(grad[:0], x[:0], weight, 1)
    monkeypatch.setattr(products, "IS_FASTER", False)
    assert not convolutions.takes(grad, x, weight, 1)
    library_results = conv_gradients(*(t.permute(0, 3, 1, 2) for t in (grad, x)), weight, has_bias=True, stride=1)
    for result, expected in zip(
        library_results, exact(grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight, 1), strict=True
    ):
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=2e-4)
