"""Every kernel on maps equals PyTorch's own operators in float64, at odd sizes and with several blocks of channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.kernels.library import call
from densevit.kernels.maps import add_gelu_norm_, add_norm_, affine_gelu, depthwise, folded, norm_add, taps

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def assert_near(ours, expected):
    torch.testing.assert_close(ours.double(), expected, **CLOSE)


def norm_of(channels):
    norm = nn.LayerNorm(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def normed(norm, x):
    return F.layer_norm(x, norm.normalized_shape, norm.weight.double(), norm.bias.double(), norm.eps)


def test_gelu_over_its_range():
    x = torch.cat([torch.linspace(-8, 8, 4001), torch.tensor([-1e6, -100.0, -30.0, 0.0, 30.0, 100.0, 1e6])])
    x = F.pad(x, (0, -len(x) % 8)).view(-1, 8)
    ours = affine_gelu(x, torch.ones(8), torch.zeros(8))
    assert (ours.double() - F.gelu(x.double())).abs().le(1e-6 + 3e-7 * F.gelu(x.double()).abs()).all()


def test_not_a_number_stays_one():
    x = torch.tensor([[float("nan"), 1.0] + [0.0] * 6])
    ours = affine_gelu(x, torch.ones(8), torch.zeros(8))
    assert ours.isnan().tolist() == [[True] + [False] * 7]


@pytest.mark.parametrize("shape", [(2, 1, 1, 8), (2, 5, 7, 40), (1, 3, 67, 2056), (3, 41, 40, 24)])
def test_batch_norm_and_its_running_statistics(shape):
    torch.manual_seed(0)
    C = shape[-1]
    x, norm = torch.randn(shape) * (0.3 + torch.rand(C)) + 30 * torch.randn(C), nn.BatchNorm2d(C)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.running_mean)
    mean, var, vectors = norm.running_mean.clone(), norm.running_var.clone(), torch.empty(4, C)
    call("batch_norm", x, norm.weight, norm.bias, mean, var, vectors, x[..., 0].numel(), C, 0.3, 1e-5)
    norm.momentum = 0.3
    expected = norm.double()(x.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    X = x.double()
    torch.testing.assert_close(
        ((X - vectors[2]) * vectors[3] * norm.weight + norm.bias), expected, rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(vectors[2].double(), X.mean(dim=(0, 1, 2)), rtol=2e-7, atol=1e-6)
    torch.testing.assert_close(
        vectors[3].double() ** -2, X.var(dim=(0, 1, 2), unbiased=False) + 1e-5, rtol=1e-4, atol=0
    )
    torch.testing.assert_close(vectors[1], norm.bias.float() - vectors[2] * vectors[0])
    torch.testing.assert_close(mean.double(), norm.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.double(), norm.running_var, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (2, 5, 7, 40)])
def test_steps_of_single_cells(shape):
    torch.manual_seed(0)
    C = shape[-1]
    x, y, scale, shift, norm = torch.randn(shape), torch.randn(shape), torch.randn(C), torch.randn(C), norm_of(C)
    X, Y, S, B = (t.double() for t in (x, y, scale, shift))
    assert_near(affine_gelu(x, scale, shift), F.gelu(X * S + B))
    assert_near(norm_add(x, shift, norm, y, torch.empty_like(x)), normed(norm, X + B) + Y)
    residual = y.clone()
    norm_add(x, shift, norm, residual, residual)
    assert_near(residual, normed(norm, X + B) + Y)
    a, b = x.clone(), y.clone()
    add_gelu_norm_(a, b, scale, shift, norm)
    assert_near(a, F.gelu(X + Y * S + B))
    assert_near(b, normed(norm, F.gelu(X + Y * S + B)))
    a, b = x.clone(), y.clone()
    add_norm_(a, b, norm)
    assert_near(a, X + Y)
    assert_near(b, normed(norm, Y))


SIZES = [(1, 1, 1, 8), (2, 6, 9, 24), (1, 7, 8, 136), (3, 2, 300, 16)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_depthwise(size, stride):
    torch.manual_seed(0)
    C = size[-1]
    x, conv = torch.randn(size), nn.Conv2d(C, C, 3, stride=stride, padding=1, groups=C)
    scale, shift = torch.randn(C), torch.randn(C)
    weight, wide = taps(conv.weight), conv.double()

    def expected(map_in):
        return wide(map_in.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    plain, inner = expected(x.double()), expected(F.gelu(x.double() * scale.double() + shift.double()))
    addend, bias = torch.randn(plain.shape), wide.bias.float()
    assert_near(depthwise(x, weight, bias, stride=stride), plain)
    assert_near(depthwise(x, weight, bias, stride=stride, act=True, before=(scale, shift)), F.gelu(inner))
    assert_near(depthwise(x, weight, bias, stride=stride, addend=addend), plain + addend)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_depthwise_backward(size, stride):
    torch.manual_seed(0)
    B, H, W, C = size
    x, scale, shift, mean = torch.randn(size), torch.randn(C), torch.randn(C), torch.randn(C)
    conv = nn.Conv2d(C, C, 3, stride=stride, padding=1, groups=C)
    weight, wide = taps(conv.weight), conv.double()
    inner = (x.double() * scale.double() + shift.double()).requires_grad_()
    out = wide(F.gelu(inner).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    grad = torch.randn(out.shape)
    out.backward(grad.double())
    grad_x, sums = torch.empty_like(x), torch.zeros(12, C)
    call("depthwise_backward", x, scale, shift, mean, weight, grad, grad_x, sums, B, H, W, C, 1, stride)
    assert_near(grad_x, inner.grad)
    assert_near(sums[:9], wide.weight.grad[:, 0].permute(1, 2, 0).reshape(9, C))
    assert_near(sums[9], wide.bias.grad)
    assert_near(sums[10], inner.grad.sum(dim=(0, 1, 2)))
    assert_near(sums[11], (inner.grad * (x - mean).double()).sum(dim=(0, 1, 2)))


def test_folded_norm():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(2, 3, 4, 4)
    scale, shift = (t.view(-1, 1, 1) for t in folded(norm, conv.bias))
    torch.testing.assert_close(F.conv2d(x, conv.weight) * scale + shift, norm(conv(x)))


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (3, 5, 7, 40)])
@pytest.mark.parametrize("with_factors", [False, True])
def test_layer_norm_and_its_gradients(shape, with_factors):
    torch.manual_seed(0)
    x, grad, addend, norm = torch.randn(shape), torch.randn(shape), torch.randn(shape), norm_of(shape[-1])
    (rows, C), factors = (x.numel() // shape[-1], shape[-1]), torch.rand(shape[0], 1, 1, 1) if with_factors else None
    wide, X = norm.double(), x.double().requires_grad_()
    weight, bias = wide.weight.float(), wide.bias.float()
    expected = wide(X) * (1 if factors is None else factors)
    out, grad_x, sums = torch.empty_like(x), torch.empty_like(x), torch.zeros(2, C)
    call("norm_add", x, None, weight, bias, None, factors, out, rows, C, rows // shape[0], norm.eps)
    assert_near(out, expected)
    call("norm_add", x, None, weight, bias, addend, factors, out, rows, C, rows // shape[0], norm.eps)
    assert_near(out, expected + addend)
    expected.backward(grad.double())
    call(
        "layer_norm_backward", x, weight, grad, factors, addend, grad_x, sums, rows, C, rows // shape[0], norm.eps
    )  # fmt: skip
    assert_near(grad_x, X.grad + addend)
    assert_near(sums, torch.stack([wide.weight.grad, wide.bias.grad]))
    call("layer_norm_backward", x, weight, grad, factors, None, grad, sums, rows, C, rows // shape[0], norm.eps)
    assert_near(grad, X.grad)


@pytest.mark.parametrize("shape", [(1, 1, 1, 8), (3, 5, 7, 40)])
def test_gelu_of_a_sum_and_its_gradients(shape):
    torch.manual_seed(0)
    C, rows = shape[-1], torch.Size(shape[:-1]).numel()
    x, y, grad, scale, shift, mean = *(torch.randn(shape) for _ in range(3)), *(torch.randn(C) for _ in range(3))
    inner = (x.double() + y.double() * scale.double() + shift.double()).requires_grad_()
    expected, out, grad_x, sums = F.gelu(inner), torch.empty_like(x), torch.empty_like(x), torch.zeros(2, C)
    call("add_gelu", x, y, scale, shift, out, rows, C)
    assert_near(out, expected)
    expected.backward(grad.double())
    call("add_gelu_backward", x, y, scale, shift, mean, grad, grad_x, sums, rows, C)
    assert_near(grad_x, inner.grad)
    of_mean = inner.grad * (y.double() - mean.double())
    assert_near(sums, torch.stack([t.flatten(0, 2).sum(dim=0) for t in (inner.grad, of_mean)]))


def test_the_slope_of_gelu_over_its_range():
    x = F.pad(torch.cat([torch.linspace(-8, 8, 4001), torch.tensor([-100.0, -30.0, 30.0, 100.0])]), (0, 3)).view(-1, 8)
    grad, value, ones, zeros = torch.ones_like(x), torch.empty_like(x), torch.ones(8), torch.zeros(8)
    call("gelu_backward", x, ones, zeros, zeros, grad, value, torch.zeros(2, 8), *x.shape)
    exact = x.double().requires_grad_()
    F.gelu(exact).sum().backward()
    assert (grad - exact.grad).abs().max() < 6e-7
    assert (value - F.gelu(exact)).abs().le(1e-6 + 3e-7 * exact.abs()).all()
