"""The kernels for a GPU equal those for a CPU, one by one, and a model by them equals one in float64.

Without a GPU Triton's interpreter runs them, in a process of its own: it must be chosen before Triton is imported.
"""

import copy
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.kernels import library
from densevit.models.conv_norm import ConvNorm
from densevit.models.hlg import HLG, Stem, takes_layer, takes_training
from densevit.models.hlg_kernels import infer_stem, takes_stem
from densevit.models.windows import window_grid

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
runs_here = pytest.mark.skipif(not library.INTERPRETED and DEVICE == "cpu", reason="neither a GPU nor the interpreter")


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """The library's convolutions in float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(autouse=True)
def threads():
    """Those of the CPU are of no interest here."""


@pytest.mark.skipif(library.INTERPRETED or DEVICE == "cuda", reason="the tests below run in this process")
def test_by_the_interpreter():
    pytest.importorskip("triton")
    if library.library() is None:
        pytest.skip("no kernels for a CPU to compare with")
    files = [__file__, str(Path(__file__).parents[1] / "models" / "test_position_bias_kernels.py")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "5 skipped" in run.stdout, run.stdout[-400:]  # this one, and four that cannot run there


def R(*shape):
    return torch.randn(shape)


def compare(name, *arguments, dtype=torch.float32, tolerance=2e-5):
    """All tensors are compared after the call, by the norm of their difference."""
    from densevit.kernels.gpu import table as gpu

    maps = [x.to(dtype) if torch.is_tensor(x) and x.dim() > 2 else x for x in arguments]
    expected = [x.float().clone() if torch.is_tensor(x) else x for x in maps]
    ours = [x.clone().to(DEVICE) if torch.is_tensor(x) else x for x in maps]
    getattr(library.library(), name)(*map(library._argument, expected), ctypes.c_long(1))
    getattr(gpu, name)(*ours)
    for index, (x, y) in enumerate(zip(expected, ours, strict=True)):
        if torch.is_tensor(x):
            if x.dim() == 5:  # parts, of which the two take different ones
                x, y = x.sum(dim=0), y.sum(dim=0)
            error = (x - y.float().cpu()).norm() / x.norm().clamp_min(1e-6)
            assert error < tolerance, (name, index, float(error))


both_types = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1.5e-2)])


@runs_here
@both_types
@pytest.mark.parametrize(("rows", "C", "per_image"), [(70, 40, 35)])
def test_steps_of_single_cells(rows, C, per_image, dtype, tolerance):
    torch.manual_seed(0)
    shape, close = (rows, 1, C), {"dtype": dtype, "tolerance": tolerance}
    out = torch.zeros(shape)
    compare("affine_gelu", R(*shape), R(C), R(C), out, rows, C, **close)
    for extras in ((None, None, None), (R(C), R(*shape), R(rows // per_image))):
        shift, residual, factors = extras
        compare("norm_add", R(*shape), shift, R(C), R(C), residual, factors, out, rows, C, per_image, 1e-5, **close)
    compare("add_gelu", R(*shape), R(*shape), R(C), R(C), out, rows, C, **close)
    compare("add_gelu_norm", R(*shape), R(*shape), R(C), R(C), R(C), R(C), rows, C, 1e-5, **close)
    compare("add_norm", R(*shape), R(*shape), R(C), R(C), out, out, rows, C, 1e-5, **close)
    for output in (None, out):
        compare("gelu_backward", R(*shape), R(C), R(C), R(C), R(*shape), output, R(2, C), rows, C, **close)
    compare("add_gelu_backward", R(*shape), R(*shape), R(C), R(C), R(C), R(*shape), out, R(2, C), rows, C, **close)
    compare("norm_backward", R(*shape), R(C), R(C), R(C), R(2, C), R(*shape), out, rows, C, 3 * rows, **close)
    for factors, addend in ((None, None), (R(rows // per_image), R(*shape))):
        tail = (out, R(2, C), rows, C, per_image, 1e-5)
        compare("layer_norm_backward", R(*shape), R(C), R(*shape), factors, addend, *tail, **close)


@runs_here
@both_types
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1, 1, 8), (2, 5, 18, 24), (1, 60, 3, 24)])
def test_depthwise(size, stride, dtype, tolerance):
    torch.manual_seed(0)
    (B, H, W, C), close = size, {"dtype": dtype, "tolerance": tolerance}
    after = (B, -(-H // stride), -(-W // stride), C)
    for before, act, addend in (((None, None), 0, None), ((R(C), R(C)), 1, None), ((R(C), R(C)), 0, R(*after))):
        tail = (torch.zeros(after), *size, 1, stride, act)
        compare("depthwise", R(*size), *before, R(9, C), R(C), addend, *tail, **close)
    for before in ((None, None, None), (R(C), R(C), R(C))):
        tail = (R(*after), torch.zeros(size), torch.zeros(12, C), *size, 1, stride)
        compare("depthwise_backward", R(*size), *before, R(9, C), *tail, **close)


@runs_here
def test_depthwise_gradients_of_images_that_share_a_program(monkeypatch):
    from densevit.kernels.gpu import depthwise_backward

    monkeypatch.setattr(depthwise_backward, "SHARE", 2)
    torch.manual_seed(0)
    size = (5, 6, 5, 8)
    tail = (R(*size), torch.zeros(size), torch.zeros(12, 8), *size, 1, 1)
    compare("depthwise_backward", R(*size), R(8), R(8), R(8), R(9, 8), *tail)


@runs_here
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_with_two_outputs_for_each_input(stride):
    from densevit.models.depthwise_conv import depthwise_conv, takes

    torch.manual_seed(0)
    conv = nn.Conv2d(24, 48, 3, stride=stride, padding=1, groups=24).to(DEVICE)
    x, theirs = (R(2, 7, 10, 24).to(DEVICE).requires_grad_() for _ in range(2))
    theirs.data.copy_(x.data)
    assert takes(x, conv)
    ours = depthwise_conv(x, conv.weight, conv.bias, stride)
    grad = torch.randn_like(ours)
    ours.backward(grad)
    gradients = [p.grad.clone() for p in conv.parameters()]
    conv.zero_grad()
    expected = F.conv2d(theirs.permute(0, 3, 1, 2), conv.weight, conv.bias, stride, 1, 1, 24).permute(0, 2, 3, 1)
    expected.backward(grad)
    right = [expected, theirs.grad, *(p.grad for p in conv.parameters())]
    for a, b in zip([ours, x.grad, *gradients], right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@runs_here
@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_block_keeps_its_kernels(training):
    torch.manual_seed(0)
    block = ConvNorm(16, 32, kernel_size=3, stride=2, groups=16).to(DEVICE).train(training)
    x, results, code = R(2, 9, 7, 16).to(DEVICE).requires_grad_(training), [], []

    def backend(graph, inputs):
        code.extend(part.code for part in graph.modules() if hasattr(part, "code"))
        return torch._dynamo.backends.registry.lookup_backend("aot_eager")(graph, inputs)

    for module in (torch.compile(copy.deepcopy(block), backend=backend, fullgraph=True), block):
        x.grad = None
        with torch.set_grad_enabled(training):
            output = module(x)
        if training:
            output.square().sum().backward()
        results.append([output, x.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert "densevit.depthwise" in " ".join(code)
    assert not training or "densevit.gelu_backward" in " ".join(code)


@runs_here
def test_batch_norm_and_its_running_statistics():
    from densevit.kernels.gpu import table as gpu

    torch.manual_seed(0)
    x, norm = (R(70, 40) * 3 + 50).to(DEVICE), nn.BatchNorm1d(40).to(DEVICE)
    nn.init.normal_(norm.weight)
    expected = norm.double()(x.double())
    mean, var, vectors = torch.zeros(40), torch.ones(40), torch.zeros(4, 40)
    mean, var, vectors = mean.to(DEVICE), var.to(DEVICE), vectors.to(DEVICE)
    gpu.batch_norm(x, norm.weight.float(), norm.bias.float(), mean, var, vectors, 70, 40, 0.1, 1e-5)
    torch.testing.assert_close((x * vectors[0] + vectors[1]).double(), expected, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(mean.double(), norm.running_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(var.double(), norm.running_var, rtol=1e-5, atol=0)


@runs_here
@pytest.mark.parametrize(("size", "C", "dim"), [((2, 9, 14), 3, 24), ((1, 4, 3), 4, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stem(size, C, dim, dtype):
    from densevit.kernels.gpu import table as gpu

    if library.INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter cannot multiply matrices of bfloat16")
    torch.manual_seed(0)
    x, weight, matrix = R(*size, C), R(dim, C, 3, 3) / 5, R(dim, dim) / dim**0.5
    vectors = [R(dim) for _ in range(4)]
    scale, shift, scale2, shift2 = (v.double() for v in vectors)
    weight, matrix = weight.to(dtype), matrix.to(dtype)
    hidden = F.conv2d(x.to(dtype).double().permute(0, 3, 1, 2), weight.double(), None, 2, 1).permute(0, 2, 3, 1)
    expected = F.gelu(F.gelu(hidden * scale + shift) @ matrix.double().t() * scale2 + shift2)
    out = torch.zeros(expected.shape, dtype=dtype, device=DEVICE)
    rows = weight.permute(0, 2, 3, 1).reshape(dim, 9 * C)
    x, rows, a, b, matrix, c, d = (t.to(DEVICE) for t in (x, rows, *vectors[:2], matrix, *vectors[2:]))
    gpu.stem(x, rows, a, b, matrix, c, d, out, *size, C)
    assert (out.double().cpu() - expected).norm() < 5e-3 * expected.norm()


@runs_here
def test_a_stem_and_who_takes_it():
    torch.manual_seed(0)
    stem, x = Stem(3, 24).to(DEVICE).eval(), R(2, 9, 14, 3).to(DEVICE)
    with torch.no_grad():
        expected = stem(x)
        assert (infer_stem(stem, x) - expected).norm() < 5e-3 * expected.norm()
        assert not takes_stem(stem, x)
        with torch.autocast(DEVICE, torch.bfloat16):
            assert takes_stem(stem, x)
            for part, name, value in (
                (stem[0].conv, "stride", (1, 1)), (stem[1], "act", False), (stem, "1", nn.Identity().eval()),
            ):  # fmt: skip
                before = getattr(part, name)
                setattr(part, name, value)
                assert not takes_stem(stem, x)
                setattr(part, name, before)
            assert takes_stem(stem, x)


WINDOWS = [((7, 14), 7, "span"), ((9, 5), 4, 1), ((9, 5), 4, "span")]


@runs_here
@pytest.mark.parametrize(("size", "window_size", "dilation"), WINDOWS)
def test_windows(size, window_size, dilation):
    torch.manual_seed(0)
    grid, heads, C = window_grid(size, window_size=window_size, dilation=dilation), 2, 48
    shape, (down, across) = (1, *size, C), grid.num_windows
    q, k, v, grad, empty = R(*shape), R(*shape), R(*shape), R(*shape), torch.zeros(shape)
    for y, x in grid.groups:
        tokens, runs = y.tokens * x.tokens, (tuple(y), tuple(x))
        bias, place = R(1, heads, tokens, tokens), (*shape[:3], heads, 24, *runs, 24**-0.5)
        compare("window_attention", q, k, v, R(C), R(C), R(C), bias, empty, *place)
        compare("window_attention", q, k, v, None, None, None, None, empty, *place)
        grads = (empty, empty, empty, torch.zeros_like(bias))
        compare("window_attention_backward", q, k, v, bias, grad, None, *grads, *place)
        compare("window_attention_backward", q, k, v, bias, grad, R(*shape), *grads, *place)
        compare("window_attention_backward", q, q, v, None, grad, R(*shape), empty, None, empty, None, *place)
        tail = (*shape, *runs, 0, down, across)
        compare("pool_windows", q, torch.zeros(1, down * across, C), *tail)
        compare("pool_windows_backward", R(1, down * across, C), grad, empty, *tail)


@runs_here
@pytest.mark.parametrize(("B", "N", "M", "dim"), [(2, 70, 9, 16), (1, 130, 64, 24)])
@pytest.mark.parametrize("parts", [1, 2])
def test_keys(B, N, M, dim, parts):
    torch.manual_seed(0)
    C = 2 * dim
    q, k, v, grad, out = R(B, N, C), R(B, M, C), R(B, M, C), R(B, N, C), torch.zeros(B, N, C)
    for bias in (None, R(1, 2, N, M)):
        compare("key_attention", q, C, k, v, C, bias, out, B, N, M, 2, dim, dim**-0.5)
        grads = (out, torch.zeros(parts, B, 2, M, C), None if bias is None else torch.zeros_like(bias))
        sizes = (B, N, M, 2, dim, parts, dim**-0.5)
        compare("key_attention_backward", q, C, k, v, C, bias, grad, *grads, *sizes)


@runs_here
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("size", [(130, 40, 72), (3, 96, 8)])
def test_product(size, transposed):
    torch.manual_seed(0)
    rows, depth, width = size
    matrix = R(width, depth) if transposed else R(depth, width)
    for bias, addend in ((None, None), (R(width), None), (R(width), R(rows, width)), (None, R(rows, width))):
        compare("product", R(rows, depth), matrix, bias, addend, torch.zeros(rows, width), *size, transposed)


@runs_here
@pytest.mark.parametrize("train", [False, True])
def test_a_model_equals_float64(train):
    torch.manual_seed(0)
    model = HLG(embed_dims=(32, 64, 64, 64), num_heads=(1, 2, 2, 2), depths=(1, 1, 1, 1), num_classes=5)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.running_mean)
    model = model.to(DEVICE).train(train)
    wide, images = copy.deepcopy(model).double(), R(2, 3, 36, 32).to(DEVICE)
    with torch.set_grad_enabled(train):
        takes = takes_training if train else takes_layer
        assert takes(model.stages[0][0], torch.zeros(2, 10, 9, 32, device=DEVICE))
        ours, expected = model(images), wide(images.double())
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(model.buffers(), wide.buffers(), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5)
    if train:
        grad = torch.randn_like(expected)
        (ours * grad.float()).sum().backward()
        (expected * grad).sum().backward()
        for (name, a), b in zip(model.named_parameters(), wide.parameters(), strict=True):
            if b.grad.norm() > 1e-6:  # a bias before a norm has none
                assert (a.grad.double() - b.grad).norm() < 1e-2 * b.grad.norm(), name
