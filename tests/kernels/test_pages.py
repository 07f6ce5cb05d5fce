"""New maps have the shape asked for; large ones take the memory of those that are gone, and never of those in use."""

import mmap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from densevit.kernels import pages
from densevit.models.hlg import create_hlg

keeps = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="memory is kept where there are large pages")
LIKE = torch.zeros(1)
MB = 2**18  # floats


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(pages, "_kept", pages._Memory())
    return pages._kept


@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (1, 1025, 1024), (2, 700, 1000, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_new_map(shape, dtype):
    like = torch.zeros(2, 3, dtype=dtype).t()
    x = pages.new_map(*shape, like=like).fill_(1)
    assert (x.shape, x.dtype, x.is_contiguous()) == (shape, dtype, True)
    assert x.double().sum() == x.numel()
    assert pages.new_map_like(x).shape == x.shape


@keeps
def test_memory_goes_from_map_to_map(kept):
    x = pages.new_map(4, MB, like=LIKE)
    place, part = x.data_ptr(), x[1]
    del x
    other = pages.new_map(4, MB, like=LIKE)
    assert other.data_ptr() != place, "a part of the first map is in use"
    del part
    assert pages.new_map(4, MB, like=LIKE).data_ptr() == place
    assert place % pages.LARGE_BYTES == 0


@keeps
def test_maps_in_use_are_apart(kept):
    maps = [pages.new_map(1 + i % 4, MB, like=LIKE).fill_(i) for i in range(12)]
    del maps[::3]
    maps += [pages.new_map(1 + i % 3, MB, like=LIKE).fill_(100 + i) for i in range(9)]
    assert all(bool((x == x[0, 0]).all()) for x in maps)
    assert len({float(x[0, 0]) for x in maps}) == len(maps)


@keeps
def test_what_is_held_stays_near_what_was_in_use(kept):
    for size in (8, 20, 9, 40, 3, 17, 64, 5, 30):  # as batches of images of many sizes are
        maps = [pages.new_map(size, MB, like=LIKE) for _ in range(2)]
        held = sum(map(len, [*kept.free, *kept.lent.values()]))
        assert held <= pages.SLACK * kept.peak
        del maps
    assert kept.peak <= 2 * (64 + 4) * 2**20
    pages.give_back()
    assert kept.free == []


@keeps
def test_threads_share_no_map(kept):
    def work(number):
        for _ in range(200):
            x = pages.new_map(1, MB, like=LIKE).fill_(number)
            if not bool((x == number).all()):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert kept.lent == {}


@keeps
def test_a_training_step_leaves_nothing_lent(kept):
    model = create_hlg("hlg_tiny", num_classes=3).train()
    for _ in range(2):
        model(torch.randn(8, 3, 112, 112)).square().mean().backward()
    assert kept.lent == {}
    assert kept.free


def test_without_large_pages(monkeypatch, kept):
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert pages.new_map(1025, 1024, like=LIKE).fill_(2).mean() == 2
    assert kept.lent == {}


def test_on_another_device():
    assert pages.new_map(4096, 4096, like=torch.zeros(1, device="meta")).device.type == "meta"
