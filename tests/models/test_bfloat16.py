"""bfloat16 autocast where the processor lacks it: float32 numbers, half the memory between the passes."""

import pytest
import torch

from densevit.models import bfloat16
from densevit.models.hlg import HLG

TINY = {"embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 4), "depths": (2, 2, 2, 1)}


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch):
    monkeypatch.setattr(bfloat16, "CPU_HAS_BFLOAT16", False)


def train_step(model, images, *, autocast):
    """Map (float32 or not) and gradients."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        features = model.forward_features(images)
    features.square().mean().backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return features.detach(), gradients


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_computes_in_float32(checkpointing):
    torch.manual_seed(0)
    model, images = HLG(**TINY, num_classes=4), torch.randn(4, 3, 96, 64)
    model.set_grad_checkpointing(checkpointing)
    exact, exact_gradients = train_step(model, images, autocast=False)
    features, gradients = train_step(model, images, autocast=True)
    assert torch.equal(features, exact)
    assert (gradients - exact_gradients).norm() < 0.02 * exact_gradients.norm()


def test_training_keeps_maps_in_bfloat16(monkeypatch):
    kept, keep = {}, bfloat16._Narrow.keep

    def seen(self, x):
        narrow = keep(self, x)
        if isinstance(narrow, tuple):
            kept[id(x)] = x, narrow[0]
        return narrow

    monkeypatch.setattr(bfloat16._Narrow, "keep", seen)
    train_step(HLG(**TINY, num_classes=4), torch.randn(4, 3, 128, 160), autocast=True)
    assert len(kept) > 50
    for x, narrow in kept.values():
        assert torch.equal(narrow, x.bfloat16())
    assert len({narrow.data_ptr() for _, narrow in kept.values()}) < len(kept)  # some maps are needed twice


def test_a_map_in_the_place_of_another_is_kept_by_itself():
    narrow, memory = bfloat16._Narrow(), torch.zeros(bfloat16.LEAST_ELEMENTS)
    first = memory.view(-1)
    (kept,) = narrow.keep(first)
    assert narrow.keep(memory.view(-1))[0] is kept
    del first
    memory.numpy()[:] = 1  # as kernels do, unseen by the version counter
    (later,) = narrow.keep(memory.view(-1))
    assert kept.sum() == 0
    assert later.sum() == len(memory)


@pytest.mark.parametrize("autocast", [False, True])
def test_nothing_is_rounded_without_autocast_or_gradients(autocast, monkeypatch):
    monkeypatch.setattr(bfloat16, "_Narrow", None)
    model, images = HLG(**TINY, num_classes=4), torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), torch.set_grad_enabled(not autocast):
        assert model.forward_features(images).dtype == torch.float32


def test_maps_that_are_bfloat16_anyway_stay_so():
    x = torch.randn(bfloat16.LEAST_ELEMENTS).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), bfloat16.worthwhile_autocast(x.device):
        y = x.square()
    y.sum().backward()
    assert torch.equal(x.grad, 2 * x.detach())
