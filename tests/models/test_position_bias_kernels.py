"""A position bias by the kernels equals the module's own layers: on a CPU, on a GPU where there is one."""

import copy

import pytest
import torch
from torch import nn

from densevit.kernels import library
from densevit.models import position_bias
from densevit.models.position_bias import DynamicPositionBias, axis_offsets
from densevit.models.position_bias_kernels import takes

pytestmark = pytest.mark.skipif(
    library.library() is None and not library.INTERPRETED, reason="no compiler for the kernels"
)


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request):
    return torch.device(request.param)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def axes(size, centers, device):
    return [axis_offsets(n, c, device=device) for n, c in zip(size, centers, strict=True)]


@pytest.mark.parametrize(("heads", "dim", "size", "centers"), [
    (3, 96, (9, 5), ([6, 17], [6, 15])), (2, 256, (4, 4), ([0, 2, 4, 6],) * 2), (17, 1024, (2, 3), ([2], [1, 4, 5])),
    (12, 384, (14, 28), ([7, 21], [7, 21, 35, 49])),
])  # fmt: skip
def test_equals_the_layers_in_float64(heads, dim, size, centers, threads, device):
    torch.manual_seed(0)
    bias = DynamicPositionBias(dim, num_heads=heads).to(device)
    for p in bias.parameters():
        nn.init.normal_(p, 1 if p.dim() == 1 else 0, 0.3)
    wide = copy.deepcopy(bias).double()
    y, x = axes(size, centers, device)
    assert takes(bias.first, bias.rest, keys_across=len(centers[1]), device=y.values.device, dtype=torch.float32)
    ours, expected = (mlp.laid_out(y, x, mlp.first.weight.dtype) for mlp in (bias, wide))
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-5)
    grad = torch.randn_like(expected)
    ours.backward(grad.float())
    expected.backward(grad)
    for (name, a), b in zip(bias.named_parameters(), wide.parameters(), strict=True):
        assert (a.grad.double() - b.grad).norm() < 1e-4 * b.grad.norm(), name


def test_no_number_stays_none(device):
    bias = DynamicPositionBias(96, num_heads=3).to(device)
    nn.init.constant_(bias.rest[0].weight, torch.nan)
    assert bias.laid_out(*axes((3, 3), ([0, 4],) * 2, device), torch.float32).isnan().all()


def test_in_bfloat16(device):
    torch.manual_seed(0)
    bias, grads = DynamicPositionBias(96, num_heads=3).to(device), []
    for dtype in (torch.float32, torch.bfloat16):
        bias.zero_grad()
        out = bias.laid_out(*axes((6, 4), ([1, 6],) * 2, device), dtype)
        assert out.dtype == dtype
        out.backward(torch.linspace(-1, 1, out.numel(), device=device).view(out.shape).to(dtype))
        grads.append([out.float(), *(p.grad for p in bias.parameters())])
    for a, b in zip(*grads, strict=True):
        assert (a - b).norm() < 2e-2 * a.norm() + 1e-6


LAST = nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)
CHANGES = {
    "hook": lambda bias: bias.register_forward_hook(lambda *_: None),
    "hook of its rest": lambda bias: bias.rest.register_forward_hook(lambda *_: None),
    "eps": lambda bias: setattr(bias.rest[0], "eps", 0.5),
    "widths": lambda bias: bias.rest.__init__(*bias.rest[:2], nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), *LAST),
    "strides": lambda bias: setattr(bias.rest[2], "weight", nn.Parameter(torch.randn(6, 6).t().to(bias.first.weight))),
    "type": lambda bias: bias.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_one_is_no_kernels(change, device, monkeypatch):
    bias = DynamicPositionBias(96, num_heads=3).to(device)
    both = axes((3, 3), ([0, 4],) * 2, device)
    monkeypatch.setattr(position_bias.LaidOutBias, "apply", lambda *_: pytest.fail("by the kernels"))
    with pytest.raises(pytest.fail.Exception, match="by the kernels"):
        bias.laid_out(*both, torch.float32)
    CHANGES[change](bias)
    bias.to(device).laid_out(*both, torch.float32)


@pytest.mark.skipif(library.INTERPRETED, reason="these are the kernels of a GPU")
@pytest.mark.parametrize(("dim", "heads"), [(2048, 3), (96, 65)])
def test_a_wide_one_is_no_kernels_of_a_cpu(dim, heads):
    bias, both = DynamicPositionBias(dim, num_heads=heads), axes((3, 3), ([0, 4],) * 2, None)
    assert bias.laid_out(*both, torch.float32).grad_fn.name() != "LaidOutBiasBackward"


class LaidOut(nn.Module):
    """The global step's bias of a 6 x 4 map with two keys."""

    def __init__(self, device):
        super().__init__()
        self.mlp, self.device = DynamicPositionBias(64, num_heads=2).to(device), device

    def forward(self):
        return self.mlp.laid_out(*axes((6, 4), ([1, 6],) * 2, self.device), torch.float32)


@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_one_keeps_its_kernels(training, device):
    torch.manual_seed(0)
    eager, results, code = LaidOut(device), [], []

    def backend(graph, inputs):
        code.extend(part.code for part in graph.modules() if hasattr(part, "code"))
        return torch._dynamo.backends.registry.lookup_backend("aot_eager")(graph, inputs)

    for module in (torch.compile(copy.deepcopy(eager), backend=backend, fullgraph=True), eager):
        with torch.set_grad_enabled(training):
            output = module()
        if training:
            output.square().sum().backward()
        results.append([output, *(p.grad for p in module.parameters() if training)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert "densevit.position_bias" in " ".join(code)
    assert not training or "densevit.position_bias_backward" in " ".join(code)
