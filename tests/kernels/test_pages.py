"""New maps have the shape asked for and can be written from end to end, large or small."""

import pytest
import torch

from densevit.kernels import pages


@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (1, 1025, 1024), (2, 700, 1000, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_new_map(shape, dtype):
    like = torch.zeros(2, 3, dtype=dtype).t()
    x = pages.new_map(*shape, like=like).fill_(1)
    assert (x.shape, x.dtype, x.is_contiguous()) == (shape, dtype, True)
    assert x.sum() == x.numel()
    assert pages.new_map_like(x).shape == x.shape


def test_without_large_pages(monkeypatch):
    monkeypatch.setattr(pages, "_madvise", lambda: None)
    assert pages.new_map(1025, 1024, like=torch.zeros(1)).fill_(2).mean() == 2


def test_on_another_device():
    assert pages.new_map(4096, 4096, like=torch.zeros(1, device="meta")).device.type == "meta"
