"""The depth-wise convolution of shortcuts against PyTorch's, with all its gradients, in float64."""

import pytest
import torch
from torch import nn

from densevit.kernels.library import library
from densevit.models.depthwise_conv import depthwise_conv, takes

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are off or cannot be built")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "multiplier"),
    [
        ((1, 1, 1, 8), 1),
        ((2, 6, 9, 24), 1),
        ((1, 1, 1, 8), 2),
        ((2, 6, 9, 24), 2),
        ((1, 7, 8, 136), 2),
        ((2, 3, 300, 4), 2),
    ],
)
def test_equals_torch(size, stride, multiplier, bias):
    torch.manual_seed(0)
    C = size[-1]
    conv = nn.Conv2d(C, C * multiplier, 3, stride=stride, padding=1, groups=C, bias=bias)
    x = torch.randn(size, requires_grad=True)
    assert takes(x, conv)
    ours = depthwise_conv(x, conv.weight, conv.bias, stride)
    grad = torch.randn_like(ours)
    ours.backward(grad)
    gradients = [x.grad, *(p.grad for p in conv.parameters())]
    conv.zero_grad()
    wide, x64 = conv.double(), x.detach().double().requires_grad_()
    theirs = wide(x64.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    theirs.backward(grad.double())
    right = [theirs, x64.grad, *(p.grad for p in wide.parameters())]
    for a, b in zip([ours, *gradients], right, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 24, 3, padding=1, groups=8),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, stride=3),
    ],
)
def test_leaves_others_to_torch(conv):
    assert not takes(torch.randn(1, 5, 5, conv.in_channels), conv)
