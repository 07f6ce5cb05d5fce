"""bfloat16 autocast where the processor lacks it: float32 numbers, half the memory between the passes."""

import gc
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from densevit.kernels import bfloat16, library
from densevit.models.hlg import HLG

TINY = {"embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 4), "depths": (2, 2, 2, 1)}
with_kernels = pytest.mark.skipif(library.library() is None, reason="no compiler for the kernels")


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(bfloat16, "CPU_HAS_BFLOAT16", False)


def train_step(model, images, *, autocast, forward=HLG.forward_features):
    """Map and gradients."""
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        features = forward(model, images)
    (features * torch.randn_like(features)).mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return features.detach(), gradients


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"window_embedding": "maxpool", "squeeze_excite": True},
        {"window_embedding": "dwconv", "local_key": "own", "drop_path_rate": 0.2},
    ],
)
def test_training_computes_in_float32(arguments):
    torch.manual_seed(0)
    model, images = HLG(**TINY, **arguments, num_classes=4), torch.randn(4, 3, 96, 64)
    exact, exact_gradients = train_step(model, images, autocast=False)
    features, gradients = train_step(model, images, autocast=True)
    assert features.dtype == torch.float32
    assert torch.equal(features, exact)
    assert (gradients - exact_gradients).norm() < 0.02 * exact_gradients.norm()


def test_checkpoints_of_layers_compute_again_what_they_did():
    torch.manual_seed(0)
    model, images = HLG(**TINY, num_classes=4), torch.randn(4, 3, 96, 64)
    _, exact = train_step(model, images, autocast=False)
    model.set_grad_checkpointing()
    _, gradients = train_step(model, images, autocast=True)
    torch.testing.assert_close(gradients, exact)


def test_a_checkpoint_of_the_model():
    torch.manual_seed(0)
    model, images = HLG(**TINY, num_classes=4), torch.randn(4, 3, 96, 64)
    _, exact = train_step(model, images, autocast=False)

    def forward(model, x):
        return checkpoint(model.forward_features, x, use_reentrant=False)

    _, gradients = train_step(model, images, autocast=True, forward=forward)
    assert (gradients - exact).norm() < 0.02 * exact.norm()


def kept(model, images, *, autocast, forward=HLG.forward_features):
    """Bytes of the maps that are kept for the backward pass."""
    sizes = {}

    def seen(x):
        if len(x) == len(images):
            sizes[x.data_ptr()] = x.nbytes
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda x: x):
        train_step(model, images, autocast=autocast, forward=forward)
    return sum(sizes.values())


@with_kernels
def test_training_keeps_maps_in_bfloat16():
    model, images = HLG(**TINY, num_classes=4), torch.randn(3, 3, 96, 96)
    assert kept(model, images, autocast=True) < 0.7 * kept(model, images, autocast=False)


@with_kernels
def test_compiled_training():
    torch.manual_seed(0)
    model, images = HLG(**TINY | {"depths": (1, 1, 1, 1)}, num_classes=4), torch.randn(3, 3, 64, 64)
    exact, exact_gradients = train_step(model, images, autocast=False)
    forward = torch.compile(HLG.forward_features, backend="aot_eager_decomp_partition", fullgraph=True)
    narrow = kept(model, images, autocast=True, forward=forward)
    features, gradients = train_step(model, images, autocast=True, forward=forward)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, exact, rtol=1e-4, atol=1e-4)
    assert (gradients - exact_gradients).norm() < 0.02 * exact_gradients.norm()
    assert narrow < 0.7 * kept(model, images, autocast=False, forward=forward)


def test_nothing_is_rounded_without_autocast_or_after_it(monkeypatch):
    x = torch.randn(64)
    with torch.autocast("cpu", dtype=torch.bfloat16), bfloat16.worthwhile_autocast(x.device):
        kept = bfloat16.narrow(x)
        assert torch.equal(kept, x.bfloat16())
        assert torch.equal(bfloat16.widened(kept, x), x.bfloat16().float())
        assert bfloat16.narrow(x.double()).dtype == torch.float64
        with bfloat16.worthwhile_autocast(x.device, keep_narrow=False):
            assert not torch.is_autocast_enabled("cpu")
    assert bfloat16.narrow(x) is x
    assert bfloat16.widened(x, x) is x
    monkeypatch.setattr(bfloat16, "CPU_HAS_BFLOAT16", True)
    with torch.autocast("cpu", dtype=torch.bfloat16), bfloat16.worthwhile_autocast(x.device):
        assert bfloat16.narrow(x) is x


@with_kernels
def test_a_graph_that_is_never_run_backward_is_freed(monkeypatch):
    kept, kept_map = [], bfloat16.kept_map

    def seen(*arguments):
        x = kept_map(*arguments)
        kept.append(weakref.ref(x))
        return x

    monkeypatch.setattr(bfloat16, "kept_map", seen)
    model = HLG(**TINY, num_classes=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.randn(2, 3, 64, 64))
    assert any(x() is not None for x in kept)
    del logits
    gc.collect()
    assert all(x() is None for x in kept)
