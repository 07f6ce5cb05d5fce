"""A compiled convolution of a map is one operator, with the gradients of PyTorch's own."""

import copy

import pytest
import torch
from torch import nn

from densevit.kernels import bfloat16, library
from densevit.models.conv_norm import ConvNorm
from densevit.models.map_conv import map_conv, takes

pytestmark = pytest.mark.skipif(library.library() is None, reason="no compiler for the kernels")


def compiled(module):
    """The module compiled without breaks, and the code of its graphs."""
    code = []

    def backend(graph, inputs):
        code.extend(part.code for part in graph.modules() if hasattr(part, "code"))
        return torch._dynamo.backends.registry.lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    return torch.compile(module, backend=backend, fullgraph=True), code


@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize(("stride", "groups", "bias"), [(2, 1, False), (1, 1, True), (2, 8, True), (2, 16, True)])
def test_a_convolution_and_its_gradients(stride, groups, bias, of_input):
    torch.manual_seed(0)
    block = ConvNorm(16, 16, kernel_size=3, stride=stride, groups=groups, bias=bias)
    ours, code = compiled(copy.deepcopy(block))
    images, results = torch.randn(2, 7, 6, 16), []
    for module in (ours, block):
        x = images.clone().requires_grad_(of_input)
        output = module(x)
        output.square().sum().backward()
        results.append([output, *(p.grad for p in module.parameters()), *([x.grad] if of_input else [])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert ("densevit.depthwise" if groups == 16 else "densevit.conv_forward") in " ".join(code)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, padding=1, dilation=2),
        nn.Conv2d(8, 8, 3, padding=0),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, (3, 1), padding=(1, 0)),
        nn.Conv2d(8, 8, 3, padding=1, stride=(1, 2)),
        nn.Conv2d(8, 8, 4, padding=2),
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Linear(8, 8),
    ],
)
def test_other_convolutions_are_left_alone(conv, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr("densevit.models.map_conv.usable", lambda *_: True)
    x = torch.zeros(1, 6, 5, 8)
    assert takes(x, nn.Conv2d(8, 8, 3, padding=1))
    assert not takes(x, conv)


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="torch 2.11 refuses our operator there, and says so")
@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_under_transforms(transform):
    torch.manual_seed(0)
    block, x = ConvNorm(8, 16, kernel_size=3, stride=2).eval(), torch.randn(2, 6, 5, 8)
    parameters = dict(block.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(block, parameters, (x,)).square().sum()

    run = {
        "grad": lambda x: torch.func.grad(loss)(parameters, x)["conv.weight"],
        "vmap": lambda x: torch.func.vmap(lambda x: loss(parameters, x[None]))(x),
    }[transform]
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(run, backend="aot_eager")(x), run(x), rtol=1e-4, atol=1e-3)


def test_images_in_training():
    """By patches and not by PyTorch's convolution."""
    torch.manual_seed(0)
    block = ConvNorm(3, 16, kernel_size=3, stride=2)
    images = torch.randn(2, 9, 6, 3, requires_grad=True)
    assert takes(images, block.conv)
    assert not takes(images, ConvNorm(3, 16, kernel_size=3).conv)
    assert not takes(images.repeat(1, 1, 1, 2), ConvNorm(6, 16, kernel_size=3, stride=2).conv)
    with torch.no_grad():
        assert not takes(images, block.conv)
    ours = block.convolve(images)
    expected = block.conv(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, expected)
    leaves, grad = (images, block.conv.weight), torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(y, leaves, grad) for y in (ours, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_large_map_is_kept_in_bfloat16(monkeypatch):
    monkeypatch.setattr(bfloat16, "CPU_HAS_BFLOAT16", False)
    torch.manual_seed(0)
    x, weight, kept = torch.randn(2, 64, 64, 32), torch.randn(8, 32, 3, 3).requires_grad_(), []

    def halved(x, weight):
        with bfloat16.worthwhile_autocast(x.device):
            return map_conv(x, weight, None, 2)

    def seen(x):
        kept.append((x.dtype, x.shape))
        return x

    exact = torch.autograd.grad(halved(x, weight).square().mean(), weight)[0]
    ours, _ = compiled(halved)
    with torch.autograd.graph.saved_tensors_hooks(seen, lambda x: x), torch.autocast("cpu", dtype=torch.bfloat16):
        output = ours(x, weight)
    assert (torch.bfloat16, x.shape) in kept
    assert (torch.float32, x.shape) not in kept
    of_weight = torch.autograd.grad(output.square().mean(), weight)[0]
    assert (of_weight - exact).norm() < 0.01 * exact.norm()
