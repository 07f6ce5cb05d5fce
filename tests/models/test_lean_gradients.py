"""One step of norm, GELU and convolution: values, gradients and statistics equal the three plain modules."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.errors import UserError
from densevit.models import lean_gradients
from densevit.models.conv_gradients import conv_gradients
from densevit.models.conv_norm import ConvNorm, in_sequence
from densevit.models.lean_gradients import keeps_one_map, norm_gelu_conv

CONVOLUTIONS = {
    "none": lambda: None,
    "linear": lambda: nn.Linear(6, 5),
    "linear without bias": lambda: nn.Linear(6, 5, bias=False),
    "3x3": lambda: nn.Conv2d(6, 4, 3, padding=1, bias=False),
    "strided": lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1),
    "depth-wise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "grouped": lambda: nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=3),
}


def nchw(conv, x):
    return conv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if isinstance(conv, nn.Linear) else conv(x)


@pytest.mark.parametrize("largest", [1, 2**30])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_equals_the_plain_modules(kind, largest, monkeypatch, assert_trained_alike):
    monkeypatch.setattr(lean_gradients, "LARGEST_BYTES", largest)  # image by image, or the batch as a whole
    torch.manual_seed(0)
    conv, norm = CONVOLUTIONS[kind](), nn.BatchNorm2d(6, momentum=0.3)
    modules = nn.ModuleList([norm] if conv is None else [norm, conv]).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    others = copy.deepcopy(modules)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    expected = F.gelu(others[0](inputs[1]))
    outputs = [norm_gelu_conv(inputs[0], norm, conv), expected if conv is None else nchw(others[1], expected)]
    assert_trained_alike((modules, others), inputs, outputs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(9, 14), (8, 13)])
def test_bfloat16_gradients_of_a_depthwise_convolution_equal_the_library(stride, size):
    torch.manual_seed(0)
    leaves = [t.bfloat16().float() for t in (torch.randn(2, 5, *size), torch.randn(5, 1, 3, 3), torch.randn(5))]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    output = F.conv2d(*leaves, stride, 1, 1, 5)
    grad = torch.randn_like(output).bfloat16()
    expected = torch.autograd.grad(output, leaves, grad.float())
    x, weight = (t.detach().bfloat16() for t in leaves[:2])
    ours = conv_gradients(grad, x.contiguous(memory_format=torch.channels_last), weight, has_bias=True, stride=stride)
    assert [a.dtype for a in ours] == [torch.bfloat16, torch.float32, torch.float32]
    for a, e in zip(ours, expected, strict=True):
        assert (a.float() - e).norm() < 0.01 * e.norm()


def test_a_sequence_keeps_one_map_between_two_blocks():
    torch.manual_seed(0)
    blocks = [ConvNorm(4, 16, bias=True), ConvNorm(16, 16, kernel_size=3, groups=16, bias=True), nn.Linear(16, 4)]
    x = torch.randn(2, 8, 8, 4, requires_grad=True)

    def kept(function):
        storages = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: storages.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
        ):
            output = function()
        return output, sum(t.numel() == 2 * 8 * 8 * 16 for t in storages.values())

    torch.manual_seed(0)
    plain, plain_maps = kept(lambda: blocks[2](plain_block(blocks[1], plain_block(blocks[0], x))))
    ours, our_maps = kept(lambda: in_sequence(x, *blocks))
    torch.testing.assert_close(ours, plain)
    assert (our_maps, plain_maps) == (2, 6)


def plain_block(block, x):
    return F.gelu(block.norm(block.convolve(x).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


def test_other_norms_and_modes_go_through_torch():
    x = torch.randn(2, 6, 3, 3)
    assert keeps_one_map(nn.BatchNorm2d(6), x)
    for norm in (
        nn.BatchNorm2d(6).eval(),
        nn.SyncBatchNorm(6),
        nn.BatchNorm2d(6, momentum=None),
        nn.BatchNorm2d(6, track_running_stats=False),
    ):
        assert not keeps_one_map(norm, x)
    assert not keeps_one_map(nn.BatchNorm2d(6), x.to("meta"))


def strided(norm):
    norm.weight = nn.Parameter(torch.randn(8, 2)[:, 0])


def whole_momentum(norm):
    norm.momentum = 1


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("change", [strided, whole_momentum])
def test_norms_and_strides_that_users_bring(change, stride):
    torch.manual_seed(0)
    norm, conv = nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, stride, 1)
    change(norm)
    modules = nn.ModuleList([norm, conv])
    others, x = copy.deepcopy(modules), torch.randn(2, 8, 9, 10) + 3
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [norm_gelu_conv(inputs[0], norm, conv), others[1](F.gelu(others[0](inputs[1])))]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(
        [inputs[0].grad, *(p.grad for p in modules.parameters()), norm.running_mean, norm.running_var],
        [inputs[1].grad, *(p.grad for p in others.parameters()), others[0].running_mean, others[0].running_var],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_an_empty_batch_is_refused_and_not_counted():
    norm = nn.BatchNorm2d(8)
    with pytest.raises(UserError, match=r"empty batch: its input is \(0, 8, 5, 5\)"):
        norm_gelu_conv(torch.randn(0, 8, 5, 5), norm)
    assert torch.equal(norm.running_mean, torch.zeros(8))
    assert norm.num_batches_tracked == 0
