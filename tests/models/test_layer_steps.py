"""Each step of an HLG layer equals its plain modules, outputs and all gradients, to the rounding of float32."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.kernels.library import library
from densevit.models import norm_gelu_kernels
from densevit.models.conv_gradients import Step, conv_gradients
from densevit.models.conv_norm import ConvNorm
from densevit.models.dwmlp_kernels import takes, train_dwmlp
from densevit.models.layer_steps import (
    AddGelu,
    Linear,
    LinearAdd,
    LinearBeside,
    MixQuery,
    NormAdd,
    NormLinear,
    PoolWindows,
)
from densevit.models.windows import partition, window_grid

pytestmark = pytest.mark.skipif(library() is None, reason="no compiler for the kernels")


@pytest.fixture(autouse=True, params=[1, 2**30], ids=["image by image", "whole batch"])
def part_bytes(request, monkeypatch):
    monkeypatch.setattr(norm_gelu_kernels, "PART_BYTES", request.param)


def drawn(*shape):
    return torch.randn(shape).requires_grad_()


def assert_alike(ours, plain, leaves):
    """`ours` and `plain` take the leaves, the second in float64, and give tensors."""
    wide = [t.detach().double().requires_grad_() for t in leaves]
    outputs, expected = ours(*leaves), plain(*wide)
    grads = [torch.randn_like(output) for output in outputs]
    torch.autograd.backward(outputs, grads)
    torch.autograd.backward(expected, [grad.double() for grad in grads])
    for a, b in zip((*outputs, *(t.grad for t in leaves)), (*expected, *(t.grad for t in wide)), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=5e-5)


def normed(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias, 1e-5)


def test_norm_add():
    torch.manual_seed(0)
    factors = torch.tensor([0.0, 1.25, 1.25]).view(3, 1, 1, 1)
    leaves = drawn(3, 5, 4, 16), drawn(16), drawn(16), drawn(3, 5, 4, 16)
    for scale in (None, factors):
        assert_alike(
            lambda *t: [NormAdd.apply(*t, scale, 1e-5)],  # noqa: B023
            lambda x, w, b, y: [normed(x, w, b) * (1 if scale is None else scale) + y],  # noqa: B023
            leaves,
        )
        for leaf in leaves:
            leaf.grad = None


def test_linear_beside():
    torch.manual_seed(0)
    leaves = drawn(3, 5, 4, 16), drawn(8, 16)
    assert_alike(lambda *t: LinearBeside.apply(*t, None), lambda x, w: (x + 0, x @ w.t()), leaves)


def test_linear():
    torch.manual_seed(0)
    for shape in ((3, 5, 4, 16), (3, 7, 16)):
        assert_alike(lambda *t: [Linear.apply(*t)], lambda *t: [F.linear(*t)], (drawn(*shape), drawn(8, 16), drawn(8)))


def test_add_gelu():
    torch.manual_seed(0)
    step = Step(torch.zeros(16), torch.ones(16), 0.1, 1e-5, 1)

    def plain(x, y, gamma, beta):
        y = F.batch_norm(y.permute(0, 3, 1, 2), None, None, gamma, beta, True, 0.1, 1e-5)
        return [F.gelu(x + y.permute(0, 2, 3, 1))]

    leaves = drawn(3, 5, 4, 16), drawn(3, 5, 4, 16), drawn(16), drawn(16)
    assert_alike(lambda *t: [AddGelu.apply(*t, step, None)], plain, leaves)
    torch.testing.assert_close(step.running_mean, 0.1 * leaves[1].detach().mean(dim=(0, 1, 2)))


def test_norm_linear():
    torch.manual_seed(0)
    leaves = drawn(3, 5, 4, 16), drawn(16), drawn(16), drawn(8, 16), drawn(8), drawn(16, 16), drawn(16)

    def plain(x, weight, bias, *layers):
        y = normed(x, weight, bias)
        return x + 0, F.linear(y, *layers[:2]), F.linear(y, *layers[2:])

    assert_alike(lambda x, w, b, *layers: NormLinear.apply(x, w, b, 1e-5, *layers), plain, leaves)


def test_mix_query():
    torch.manual_seed(0)
    leaves = *(drawn(2, 5, 4, 16) for _ in range(3)), drawn(16), drawn(16), drawn(16, 1, 3, 3), drawn(16)

    def plain(x, local, q, weight, bias, kernel, shift):
        y = F.conv2d(normed(local, weight, bias).permute(0, 3, 1, 2), kernel, shift, padding=1, groups=16)
        return x + local, q + y.permute(0, 2, 3, 1)

    assert_alike(lambda x, local, q, *weights: MixQuery.apply(x, local, q, 1e-5, *weights), plain, leaves)


@pytest.mark.parametrize("dilation", [1, 2, "span"])
@pytest.mark.parametrize("size", [(14, 7), (10, 9), (3, 5)])
def test_pool_windows(size, dilation):
    torch.manual_seed(0)
    grid = window_grid(size, window_size=3, dilation=dilation)
    leaves = [drawn(2, *size, 8)]
    assert_alike(lambda x: PoolWindows.apply(x, grid), lambda x: (x + 0, _means(x, grid)), leaves)


def _means(x, grid):
    """The mean of each window, by hand: every token is told its window, in canonical order."""
    (down, across), (bottom, right) = grid.num_windows, grid.padding
    padded = F.pad(x, (0, 0, 0, right, 0, bottom))
    pooled, places = x.new_zeros(len(x), down, across, x.shape[-1]), iter(partition(padded, grid))
    top = 0
    for run_y in grid.runs_y:
        left = 0
        for run_x in grid.runs_x:
            means = next(places).mean(dim=2).view(len(x), run_y.windows, run_x.windows, -1)
            pooled[:, top : top + run_y.windows, left : left + run_x.windows] = means
            left += run_x.windows
        top += run_y.windows
    return pooled.flatten(1, 2)


@pytest.mark.parametrize("factors", [None, torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)], ids=["all", "dropped"])
def test_linear_add(factors):
    torch.manual_seed(0)
    leaves = drawn(2, 5, 4, 16), drawn(8, 16), drawn(8), drawn(2, 5, 4, 8)
    assert_alike(
        lambda *t: [LinearAdd.apply(*t, factors)],
        lambda x, w, b, y: [F.linear(x, w, b) * (1 if factors is None else factors) + y],
        leaves,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_dwmlp_keeps_one_wide_map(stride):
    torch.manual_seed(0)
    expand = ConvNorm(8, 32, bias=True)
    depthwise = ConvNorm(32, 32, kernel_size=3, stride=stride, groups=32, bias=True)
    project, x, kept = nn.Linear(32, 16), drawn(3, 9, 8, 8), []
    assert takes(x, expand, depthwise, project)
    assert not takes(x.double(), expand, depthwise, project)
    assert not takes(x, expand, depthwise, nn.utils.parametrizations.weight_norm(nn.Linear(32, 16)))
    blocks = nn.ModuleList([expand, depthwise, project])
    leaves = [x, *blocks.parameters()]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        train_dwmlp(x, *blocks)
    assert sum(count >= 32 * 3 * 5 * 4 for count in kept) == 1

    def plain(x, *weights):
        values = dict(zip((name for name, _ in blocks.named_parameters()), weights, strict=True))
        named = {f"blocks.{name}": value for name, value in values.items()}
        return [x.sin(), torch.func.functional_call(wide, named, x)]

    def ours(x, *_):
        x, y = train_dwmlp(x, *blocks)
        return [x.sin(), y]

    wide = _Sequence(copy.deepcopy(blocks).double())
    assert_alike(ours, plain, leaves)
    alone = torch.autograd.grad(train_dwmlp(x, *blocks)[0].sum(), [x, project.weight], allow_unused=True)
    assert torch.equal(alone[0], torch.ones_like(x))
    assert alone[1] is None


class _Sequence(nn.Module):
    """The three blocks by torch's own modules."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks

    def forward(self, x):
        for block in self.blocks[:2]:
            x = block.convolve(x).permute(0, 3, 1, 2)
            x = F.gelu(F.batch_norm(x, None, None, block.norm.weight, block.norm.bias, True)).permute(0, 2, 3, 1)
        return self.blocks[2](x)


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (7, 5), (1, 1), (2, 3)])
def test_gradients_of_a_convolution_that_halves(size):
    torch.manual_seed(0)
    x, weight, bias = drawn(2, 5, *size), drawn(7, 5, 3, 3), drawn(7)
    output = F.conv2d(x.double(), weight.double(), bias.double(), 2, 1)
    grad = torch.randn_like(output)
    expected = torch.autograd.grad(output, (x, weight, bias), grad)
    lasting = (t.detach().float().contiguous(memory_format=torch.channels_last) for t in (grad, x))
    ours = conv_gradients(*lasting, weight.detach(), has_bias=True, stride=2)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=5e-5)
