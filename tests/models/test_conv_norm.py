"""Convolution, norm and GELU in one: every fast path equals the three plain modules, values and gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.models.conv_norm import ConvNorm, in_cached_parts, in_sequence

KINDS = [
    {"kernel_size": 1, "bias": True}, {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "groups": 6, "bias": True},
    {"kernel_size": 3, "stride": 2, "groups": 6, "bias": True}, {"kernel_size": 1, "act": False},
]  # fmt: skip


def build(kind):
    torch.manual_seed(0)
    module = ConvNorm(6, 6, **kind).double()
    with torch.no_grad():
        for tensor in (module.norm.weight, module.norm.bias, module.norm.running_mean):
            tensor.normal_()
        module.norm.running_var.uniform_(0.5, 2)
    return module


def plain(module, x, kind):
    """The same by textbook modules, sharing the parameters."""
    weight = module.conv.weight if module.conv.weight.dim() == 4 else module.conv.weight[:, :, None, None]
    padding, groups = kind["kernel_size"] // 2, kind.get("groups", 1)
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, module.conv.bias, kind.get("stride", 1), padding, 1, groups)
    y = module.norm(y)
    return (F.gelu(y) if module.act else y).permute(0, 2, 3, 1)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_folded_convolution_equals_the_plain_modules(kind):
    module, x = build(kind).eval(), torch.randn(2, 9, 14, 6, dtype=torch.float64)
    expected = plain(module, x, kind)
    for _ in range(2):
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_gradients_and_running_statistics_equal_the_plain_modules(kind, training, assert_trained_alike):
    ours = build(kind).train(training)
    theirs = copy.deepcopy(ours)
    x = torch.randn(2, 9, 14, 6, dtype=torch.float64)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [ours(inputs[0]), plain(theirs, inputs[1], kind)]
    assert_trained_alike((ours, theirs), inputs, outputs)


@torch.no_grad()
def test_folded_weights_follow_their_parameters():
    module, x = build(KINDS[0]).eval(), torch.randn(1, 4, 5, 6, dtype=torch.float64)
    module(x)
    module.norm.running_mean.add_(1)
    torch.testing.assert_close(module(x), plain(module, x, KINDS[0]))
    module.load_state_dict(build(KINDS[0]).state_dict())
    torch.testing.assert_close(module(x), plain(module, x, KINDS[0]))
    module.conv.weight.data.mul_(2)
    torch.testing.assert_close(module.eval()(x), plain(module, x, KINDS[0]))


@torch.no_grad()
def test_folded_weights_follow_statistics_that_moved_on_alone():
    module, x = build(KINDS[0]).eval(), torch.randn(4, 4, 5, 6, dtype=torch.float64)
    module(x)
    module.norm.train()
    module(x)
    module.norm.eval()
    torch.testing.assert_close(module(x), plain(module, x, KINDS[0]))


@pytest.mark.parametrize("training", [True, False])
def test_other_layers_of_torch_in_place_of_the_convolution_are_called(training):
    x = torch.randn(2, 4, 5, 8)
    for conv in (
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.Identity(),
    ):
        module, other = ConvNorm(8, 8, kernel_size=3).train(training), ConvNorm(8, 8).train(training)
        module.conv = conv
        with torch.set_grad_enabled(training):
            y = conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            torch.testing.assert_close(module(x), other.norm_act(y))
            torch.testing.assert_close(in_sequence(x, module, other), other(module(x)), rtol=1e-4, atol=1e-4)


class Adapted(nn.Module):
    """As adapters do: looks like the layer that it holds, and changes what that gives."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    weight, bias = property(lambda self: self.layer.weight), property(lambda self: self.layer.bias)

    def forward(self, x):
        return self.layer(x).square()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_adapters_in_place_of_the_convolution_are_called(kind, training):
    module, x = build(kind).train(training), torch.randn(2, 6, 9, 14, dtype=torch.float64)
    norm = copy.deepcopy(module.norm)
    module.conv = Adapted(module.conv)
    for grad in (training, True):
        with torch.set_grad_enabled(grad):
            ours = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            conv = module.conv.layer
            y = conv(x) if isinstance(conv, nn.Conv2d) else conv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            y = norm(y.square())
            torch.testing.assert_close(ours, F.gelu(y) if module.act else y)


@torch.no_grad()
def test_images_in_parts_give_the_same(monkeypatch):
    module, x = build(KINDS[2]).eval(), torch.randn(5, 4, 5, 6, dtype=torch.float64)
    expected = module(x)
    monkeypatch.setattr("densevit.models.conv_norm.CACHED_ELEMENTS", 240)
    calls, forward = [], ConvNorm.forward
    monkeypatch.setattr(ConvNorm, "forward", lambda self, part: calls.append(len(part)) or forward(self, part))
    torch.testing.assert_close(in_cached_parts(module, x, peak=120), expected)
    assert calls == [2, 2, 1]


@torch.no_grad()
def test_a_module_with_a_hook_or_a_norm_in_training_gets_the_batch_whole(monkeypatch):
    monkeypatch.setattr("densevit.models.conv_norm.CACHED_ELEMENTS", 240)
    x, seen = torch.randn(5, 4, 5, 6), []
    module = build(KINDS[2]).float().eval()
    module.norm.register_forward_hook(lambda _, args, out: seen.append(args[0].shape))
    in_cached_parts(module, x, peak=120)
    assert seen == [(5, 6, 4, 5)]
    module = build(KINDS[2]).float().eval()
    module.norm.train()
    in_cached_parts(module, x, peak=120)
    assert module.norm.num_batches_tracked == 1


@pytest.mark.parametrize("training", [False, True])
def test_norms_of_other_kinds_and_hooks_on_norms_are_called(training):
    x, calls = torch.randn(2, 4, 5, 8), []
    module = ConvNorm(8, 8).train(training)
    module.norm.register_forward_hook(lambda *_: calls.append(1))
    with torch.set_grad_enabled(training):
        module(x)
        in_sequence(x, module, nn.Linear(8, 8).train(training))
        assert len(calls) == 2
        for norm in (nn.GroupNorm(2, 8), nn.Identity(), nn.BatchNorm2d(8, track_running_stats=False)):
            module.norm = norm.train(training)
            expected = F.gelu(norm(module.conv(x).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
            torch.testing.assert_close(module(x), expected)


def test_fused_optimizers_are_seen():
    x, module = torch.randn(2, 4, 5, 8), ConvNorm(8, 8).eval()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, fused=True)
    with torch.no_grad():
        before = module(x)
    module(x).square().sum().backward()
    with torch.no_grad():
        module(x)  # kept again
    optimizer.step()
    with torch.no_grad():
        after = module(x)
    torch.testing.assert_close(after, module(x))
    assert not torch.allclose(after, before)


def test_changed_settings_of_a_convolution_count():
    x, module = torch.randn(2, 8, 8, 8), ConvNorm(8, 8, kernel_size=3, stride=2).eval()
    module.conv.stride, module.conv.dilation, module.conv.padding = (1, 1), (2, 2), (2, 2)
    expected = F.gelu(module.norm(module.conv(x.permute(0, 3, 1, 2)))).permute(0, 2, 3, 1)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x), expected)


def test_synchronised_norms_are_left_alone():
    module = nn.SyncBatchNorm.convert_sync_batchnorm(ConvNorm(6, 6))
    assert type(module.norm) is nn.SyncBatchNorm
    module.eval()(torch.randn(1, 4, 5, 6))
