"""The kernels as operators: their schemas tell the truth, and `torch.compile` keeps them."""

import copy
import re
from functools import partial

import pytest
import torch

from densevit.kernels import library, products
from densevit.kernels.operators import SCHEMAS
from densevit.models import hlg_kernels, norm_gelu_kernels
from densevit.models.hlg import _run
from densevit.models.hlg_layer import HLGLayer

pytestmark = pytest.mark.skipif(library.library() is None, reason="no compiler for the kernels")


@pytest.fixture(autouse=True)
def threads():
    """Those of PyTorch, as they stand."""


GPU_ALONE = {"column_sums", "stem"}
LAYERS = {
    "first": partial(HLGLayer, 16, 32, num_heads=2, stride=2),
    "own": partial(HLGLayer, 32, 32, num_heads=2, local_key="own", window_embedding="dwconv", drop_path=0.5),
    "full": partial(HLGLayer, 16, 32, num_heads=2, stride=2, full_attention=True),
}


def layer_and_map(name):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    return layer, torch.randn(2, 18, 15, layer.mlp.expand.conv.in_features)


def step(layer, x, training):
    """Outputs and gradients of a layer."""
    torch.manual_seed(1)
    layer.train(training)
    x = x.clone().requires_grad_(training)
    with torch.set_grad_enabled(training):
        output = layer(x)
    if not training:
        return [output]
    output.square().sum().backward()
    return [output, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]


class ByKernels(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return _run(self.layer, x)


@pytest.fixture(scope="module")
def calls():
    """What each kernel was called with last, in an inference and a training step."""
    seen, run = {}, library._run

    def note(name, *arguments):
        seen[name] = tuple(x.clone() if torch.is_tensor(x) else x for x in arguments)
        run(name, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_run", note)
        patch.setattr(products, "IS_FASTER", True)
        patch.setattr(products, "FEWEST", 0)
        for training in (False, True):
            step(ByKernels(layer_and_map("first")[0]), layer_and_map("first")[1], training)
    return seen


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - GPU_ALONE))
def test_writes_into_what_its_schema_says(calls, name):
    operator = getattr(torch.ops.densevit, name).default
    torch.library.opcheck(operator, calls[name], test_utils=("test_schema", "test_faketensor"))


R = torch.randn
PARTS = {
    "gelu_linear": (R(2, 6, 5, 16), R(16), R(16), R(8, 16), R(8)),
    "gelu_linear_backward": (R(2, 6, 5, 16), *R(3, 16), R(8, 16), R(2, 6, 5, 8), R(2, 6, 5, 16), R(2, 16)),
    "gelu_conv": (R(2, 6, 5, 16), R(16), R(16), R(8, 16, 3, 3), R(8), 2),
    "gelu_conv_backward": (
        R(2, 6, 5, 16), *R(3, 16), R(8, 16, 3, 3), R(2, 3, 3, 8), R(2, 6, 5, 16), R(2, 16), False, 2,
    ),
    "linear_norm_backward": (
        R(2, 6, 5, 8), R(16, 8), R(2, 6, 5, 16), list(R(4, 16)), R(2, 16), R(2, 6, 5, 16), R(2, 6, 5, 8),
    ),
    "infer_dwmlp": (R(2, 6, 5, 8), R(16, 8), R(16), R(16), R(9, 16), R(16), R(8, 16), 2, 1),
    "conv_forward": (R(2, 6, 5, 8), R(16, 8, 3, 3), R(16), 2),
    "conv_backward": (R(2, 3, 3, 16), R(2, 6, 5, 8), R(16, 8, 3, 3), 2, True, True),
    "conv_norm_gelus": (
        R(2, 6, 5, 8), [R(16, 8, 3, 3), R(8, 16)], [R(16), R(8)], [R(16), R(8)], [2, 1], 1,
    ),
    "new_map": ((2, 6, 5), torch.float32),
}  # fmt: skip


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("name", PARTS)
def test_a_loop_over_parts_is_an_operator(name, images, monkeypatch):
    monkeypatch.setattr(hlg_kernels, "PART_ELEMENTS", images * 6 * 5 * 16)
    monkeypatch.setattr(norm_gelu_kernels, "PART_BYTES", images * 6 * 5 * 64)
    arguments = tuple(x.clone() if torch.is_tensor(x) else x for x in PARTS[name])
    torch.library.opcheck(
        getattr(torch.ops.densevit, name).default, arguments, test_utils=("test_schema", "test_faketensor")
    )


def test_a_new_map_while_another_thread_compiles(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x = torch.ops.densevit.new_map((2, 3), torch.bfloat16)
    assert (x.shape, x.dtype, x.device.type) == ((2, 3), torch.bfloat16, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_one_graph_for_all_batches(training, monkeypatch):
    """After that for the first of them, and where an eager step takes one image at a time, too."""
    monkeypatch.setattr(hlg_kernels, "PART_ELEMENTS", 1)
    monkeypatch.setattr(norm_gelu_kernels, "PART_BYTES", 1)
    monkeypatch.setattr(products, "FEWEST", 0)
    (layer, x), graphs = layer_and_map("first"), []
    eager = ByKernels(copy.deepcopy(layer))

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(ByKernels(layer), backend=backend, fullgraph=True)
    for batch in (2, 3, 7, 5):
        images = x[:1].repeat(batch, 1, 1, 1) * torch.rand(batch, 1, 1, 1)
        for a, b in zip(step(compiled, images, training), step(eager, images, training), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert len(graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_layer_keeps_its_kernels(name, training):
    layer, x = layer_and_map(name)
    eager, code = ByKernels(copy.deepcopy(layer)), []

    def backend(graph, inputs):
        code.extend(part.code for part in graph.modules() if hasattr(part, "code"))
        return torch._dynamo.backends.registry.lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    ours = step(torch.compile(ByKernels(layer), backend=backend, fullgraph=True), x, training)
    for a, b in zip(ours, step(eager, x, training), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    kept = set(re.findall(r"densevit\.(\w+)", " ".join(code)))
    alone = {"batch_norm", "depthwise", "gelu_linear_backward"} if training else {"infer_dwmlp"}
    assert kept >= {"norm_add", "key_attention"} | alone
