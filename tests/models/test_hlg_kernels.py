"""HLG by the kernels equals HLG by PyTorch's operators: outputs, gradients, running statistics."""

import copy

import pytest
import torch
from torch import nn

from densevit.kernels import library as module
from densevit.models.attention import BiasedAttention
from densevit.models.hlg import _run, create_hlg
from densevit.models.hlg_kernels import takes_layer
from densevit.models.hlg_layer import HLGLayer
from densevit.models.hlg_train_kernels import takes_training

OPTIONS = [
    {},
    {"local_key": "own", "window_embedding": "dwconv", "dilation": 8},
    {"position_bias": False, "window_embedding": "maxpool"},
    {"embed_dims": (20, 40, 80, 160), "num_heads": (1, 1, 2, 4)},  # widths and heads that not all kernels take
    {"squeeze_excite": True},
]


@pytest.fixture
def by_torch(monkeypatch):
    """by_torch(function): its result where there are no kernels."""
    if module.library() is None:
        pytest.skip("no compiler for the kernels, see the warning of densevit.kernels.library")

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(module, "library", lambda: None)
            return function()

    return run


def drawn(**options):
    """A small model with nothing at its initial value."""
    torch.manual_seed(0)
    model = create_hlg("hlg_tiny", num_classes=5, depths=(2, 2, 2, 1), **options)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "norm" in name and tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif name.endswith("bias"):
            nn.init.normal_(tensor, std=0.1)
    return model


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "default")
@pytest.mark.parametrize("size", [(64, 64), (75, 130)])
def test_inference(options, size, by_torch):
    model, images = drawn(**options).eval(), torch.randn(3, 3, *size)
    with torch.no_grad():
        ours = model.forward_features(images)
        torch.testing.assert_close(ours, by_torch(lambda: model.forward_features(images)), rtol=1e-4, atol=1e-4)
        one_by_one = torch.cat([model.forward_features(image[None]) for image in images])
    torch.testing.assert_close(ours, one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "default")
def test_training(options, by_torch):
    model, images, target = drawn(**options).train(), torch.randn(3, 3, 75, 130), torch.randn(3, 5)
    other, exact = copy.deepcopy(model), copy.deepcopy(model).double()

    def step(model, images, target):
        loss = (model(images) * target).sum()
        loss.backward()
        return loss

    step(model, images, target)
    by_torch(lambda: step(other, images, target))
    step(exact, images.double(), target.double())
    scale = sum(p.grad.norm() ** 2 for p in exact.parameters()) ** 0.5
    for name, p in exact.named_parameters():
        error, theirs = ((m.get_parameter(name).grad.double() - p.grad).norm() for m in (model, other))
        assert error <= 2 * theirs + 1e-4 * p.grad.norm() + 1e-7 * scale, name
    for name, buffer in exact.named_buffers():
        torch.testing.assert_close(model.get_buffer(name).to(buffer.dtype), buffer, rtol=1e-4, atol=1e-4)


def test_taken_only_where_no_gradient_is_wanted_and_nothing_trains():
    model, x = drawn().eval(), torch.randn(1, 8, 8, 64)
    layer = model.stages[0][0]
    if module.library() is None:
        pytest.skip("no compiler for the kernels, see the warning of densevit.kernels.library")
    assert not takes_layer(layer, x)
    with torch.no_grad():
        assert takes_layer(layer, x)
        assert not takes_layer(layer, x.double())
        layer.mlp.expand.norm.train()
        assert not takes_layer(layer, x)


def test_training_with_stochastic_depth_and_checkpoints(by_torch):
    model, images = drawn(drop_path_rate=0.5).train(), torch.randn(3, 3, 64, 96)
    other, checkpointing = copy.deepcopy(model), copy.deepcopy(model)
    checkpointing.set_grad_checkpointing()

    def step(model):
        torch.manual_seed(1)
        model(images).square().sum().backward()

    step(model)
    step(checkpointing)
    by_torch(lambda: step(other))
    for name, p in other.named_parameters():
        ours, again = (m.get_parameter(name).grad for m in (model, checkpointing))
        assert (ours - p.grad).norm() <= 1e-3 * p.grad.norm() + 1e-4, name
        torch.testing.assert_close(again, ours, rtol=0, atol=0)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(checkpointing.get_buffer(name), buffer, rtol=0, atol=0)


def test_training_taken_only_where_all_trains():
    model, x = drawn().train(), torch.randn(2, 8, 8, 64)
    layer = model.stages[0][0]
    if module.library() is None:
        pytest.skip("no compiler for the kernels, see the warning of densevit.kernels.library")
    assert takes_training(layer, x)
    assert not takes_training(layer, x.double())
    with torch.no_grad():
        assert not takes_training(layer, x)
    layer.smooth.conv.norm.eval()
    assert not takes_training(layer, x)
    layer.smooth.conv.norm.train()
    assert takes_training(layer, x)


class Adapted(nn.Module):
    """A linear layer with something beside it."""

    def __init__(self, linear):
        super().__init__()
        self.linear, self.calls = linear, 0

    weight = property(lambda self: self.linear.weight)
    bias = property(lambda self: self.linear.bias)

    def forward(self, x):
        self.calls += 1
        return self.linear(x)


@pytest.mark.parametrize("train", [False, True])
def test_changed_layers_are_called_as_they_are(train):
    calls = []

    class Doubled(nn.Module):
        def forward(self, weight):
            calls.append("parametrization")
            return 2 * weight

    def adapt(layer):
        layer.attn.q = Adapted(layer.attn.q)
        return lambda: layer.attn.q.calls

    def hook(layer):
        layer.norm1.register_forward_hook(lambda *_: calls.append("hook"))
        return lambda: calls.count("hook")

    def parametrize(layer):
        nn.utils.parametrize.register_parametrization(layer.attn.v, "weight", Doubled())
        calls.clear()
        return lambda: calls.count("parametrization")

    def without_scale(layer):
        layer.attn.norm = nn.LayerNorm(64, elementwise_affine=False)
        return lambda: 1

    def without_bias(layer):
        layer.attn.q = nn.Linear(64, 64, bias=False)
        layer.mlp.project = nn.Linear(256, 64, bias=False)
        return lambda: 1

    def hook_inside(layer):
        for part in (layer.mlp.project, layer.mlp.expand, layer.smooth.conv):
            part.register_forward_hook(lambda *_: calls.append("inside"))
        return lambda: calls.count("inside") == 3

    def compiled(layer):
        layer.mlp = torch.compile(layer.mlp, backend="eager")
        return lambda: 1

    def patched(layer):
        def forward(x):
            calls.append("patched")
            return type(layer.mlp).forward(layer.mlp, x)

        layer.mlp.forward = forward
        return lambda: calls.count("patched")

    for change in (adapt, hook, parametrize, without_scale, without_bias, hook_inside, compiled, patched):
        model = drawn().train(train)
        count = change(model.stages[0][1])
        with torch.set_grad_enabled(train):
            model(torch.randn(2, 3, 64, 64))
        assert count() > 0, change.__name__


def _without(layer):
    layer.drop_path = layer.norm1 = nn.Identity()


def _other_norm(layer):
    layer.norm1 = nn.RMSNorm(64)


def _dilated(layer):
    layer.attn.mix_query.dilation = layer.attn.mix_query.padding = (2, 2)
    layer.mlp.depthwise.conv.dilation = layer.mlp.depthwise.conv.padding = (3, 3)


def _pruned(layer):  # in place, to a width that is not whole vectors
    mlp, width = layer.mlp, layer.mlp.expand.dim - 12
    mlp.expand.conv.out_features = mlp.project.in_features = width
    depthwise = mlp.depthwise.conv
    depthwise.in_channels = depthwise.out_channels = depthwise.groups = width
    for part in (mlp.expand.conv, mlp.expand.norm, depthwise, mlp.depthwise.norm):
        for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
            if tensor.dim():
                getattr(part, name).data = tensor.data[:width].clone()
    for norm in (mlp.expand.norm, mlp.depthwise.norm):
        norm.num_features = width
    mlp.project.weight.data = mlp.project.weight.data[:, :width].clone()


def _with_gaps(layer):
    gaps = {name: torch.stack([t, t + 7], dim=-1)[..., 0] for name, t in layer.state_dict().items()}
    layer.load_state_dict(gaps, assign=True)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("change", [_without, _other_norm, _dilated, _pruned, _with_gaps])
def test_layers_changed_in_place_give_what_they_should(change, train, by_torch):
    layer, x = drawn().stages[0][1].train(train), torch.randn(2, 15, 15, 64)
    change(layer)
    same = copy.deepcopy(layer)
    with torch.set_grad_enabled(train):
        torch.testing.assert_close(_run(layer, x), by_torch(lambda: same(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_autocast_where_the_processor_has_bfloat16(train, monkeypatch):
    monkeypatch.setattr("densevit.kernels.bfloat16.CPU_HAS_BFLOAT16", True)
    model, images = drawn().train(train), torch.randn(2, 3, 64, 64)
    with torch.set_grad_enabled(train):
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            ours = model(images)
    assert (ours.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("train", [False, True])
def test_windows_that_the_kernels_do_not_take_are_cut_short_too(train, by_torch):
    torch.manual_seed(0)
    layer = HLGLayer(96, 96, num_heads=8, window_size=3, dilation=2).train(train)  # heads of 12 channels
    x = torch.randn(2, 15, 15, 96)
    with torch.set_grad_enabled(train):
        assert takes_training(layer, x) is train
        torch.testing.assert_close(_run(layer, x), by_torch(lambda: layer(x)), rtol=1e-4, atol=1e-4)


def test_rows_of_several_images_on_many_keys(by_torch, monkeypatch):
    attention = BiasedAttention(64, num_heads=8)
    q, k, centers = torch.randn(2, 12, 10, 64), torch.randn(2, 6, 64), ([3, 9], [1, 5, 9])
    whole = attention(q, k, k, centers=centers)
    monkeypatch.setattr("densevit.models.attention.MAX_BIAS_ELEMENTS", 8 * 10 * 6 * 5)  # five rows at a time
    torch.testing.assert_close(attention(q, k, k, centers=centers), whole)


def test_inference_sees_new_weights():
    model, images = drawn().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        model.stages[0][0].mlp.depthwise.norm.weight.mul_(1.5)
        model.stages[0][0].mlp.depthwise.conv.weight.mul_(1.5)
        after = model(images)
    assert not torch.equal(before, after)
    with torch.no_grad():
        torch.testing.assert_close(after, copy.deepcopy(model)(images), rtol=0, atol=0)
