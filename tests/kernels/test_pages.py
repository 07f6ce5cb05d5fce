"""New maps have the shape asked for; large ones take the memory of those that are gone, and never of those in use."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from densevit.kernels import pages
from densevit.models.hlg import create_hlg

keeps = pytest.mark.skipif(pages._memory() is None, reason="memory is kept where there are large pages")
LIKE = torch.zeros(1)
MB = 2**18  # floats


@pytest.fixture
def memory(monkeypatch):
    memory = pages.Memory(2**30)
    monkeypatch.setattr(pages, "_memory", lambda: memory)
    return memory


def is_free(memory):
    """Whether nothing is lent."""
    memory.give_back()
    return memory.free == [(0, 2**30)]


@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (1, 1025, 1024), (2, 700, 1000, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_new_map(shape, dtype):
    like = torch.zeros(2, 3, dtype=dtype).t()
    x = pages.new_map(*shape, like=like).fill_(1)
    assert (x.shape, x.dtype, x.is_contiguous()) == (shape, dtype, True)
    assert x.double().sum() == x.numel()
    assert pages.new_map_like(x).shape == x.shape


@keeps
def test_memory_goes_from_map_to_map(memory):
    x = pages.new_map(4, MB, like=LIKE)
    place, part = x.data_ptr(), x[1]
    del x
    other = pages.new_map(4, MB, like=LIKE)
    assert other.data_ptr() > place, "a part of the first map is in use"
    del part
    assert pages.new_map(4, MB, like=LIKE).data_ptr() == place
    del other
    assert is_free(memory)


@keeps
def test_maps_in_use_are_apart(memory):
    maps = [pages.new_map(2 + i % 4, MB, like=LIKE).fill_(i) for i in range(12)]
    del maps[::3]
    maps += [pages.new_map(2 + i % 3, MB, like=LIKE).fill_(100 + i) for i in range(9)]
    assert all(bool((x == x[0, 0]).all()) for x in maps)
    assert len({float(x[0, 0]) for x in maps}) == len(maps)
    random.Random(0).shuffle(maps)
    while maps:
        maps.pop()
    assert is_free(memory)


@keeps
def test_pieces_join_their_neighbours(memory):
    maps = [pages.new_map(2, MB, like=LIKE) for _ in range(4)]
    place = maps[1].data_ptr()
    del maps[1:3]
    assert pages.new_map(4, MB, like=LIKE).data_ptr() == place


@keeps
def test_gradients_take_the_memory_of_the_last_maps(memory):
    maps = [pages.new_map(4, MB, like=LIKE) for _ in range(3)]
    places = [x.data_ptr() for x in maps]
    del maps[2], maps[0]
    gradients = [pages.new_gradient(1, MB, like=LIKE).fill_(i) for i in range(4)]
    assert all(places[2] <= x.data_ptr() for x in gradients[:3])
    assert all(x.data_ptr() < places[2] + 4 * 4 * MB for x in gradients[:3])
    assert places[0] < gradients[3].data_ptr() < places[1], "no room for a fourth"
    assert [x.unique().tolist() for x in gradients] == [[0], [1], [2], [3]]
    del gradients, maps
    pages.give_back()
    assert pages.new_gradient(1, MB, like=LIKE).data_ptr() == places[0], "the system is asked for no more than needed"
    assert is_free(memory)


@keeps
def test_more_than_there_is(memory):
    maps = [pages.new_map(300, MB, like=LIKE) for _ in range(5)]  # not written to
    assert len({x.data_ptr() for x in maps}) == 5
    assert [x.shape for x in maps] == [(300, MB)] * 5


@keeps
def test_memory_given_back_is_empty(memory):
    place = pages.new_map(4, MB, like=LIKE).fill_(1).data_ptr()
    other = pages.new_map(4, MB, like=LIKE)
    assert (other.data_ptr(), float(other.sum())) == (place, 4 * MB)
    lower, other = other, pages.new_map(4, MB, like=LIKE).fill_(2)
    del lower
    pages.give_back()
    assert float(pages.new_map(3, MB, like=LIKE).sum()) == 0
    assert bool((other == 2).all())


@keeps
def test_threads_share_no_map(memory):
    def work(number):
        for _ in range(200):
            x = pages.new_map(2, MB, like=LIKE).fill_(number)
            if not bool((x == number).all()):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert is_free(memory)


@keeps
def test_a_training_step_leaves_nothing_lent(memory):
    model = create_hlg("hlg_tiny", num_classes=3).train()
    for _ in range(2):
        model(torch.randn(8, 3, 112, 112)).square().mean().backward()
    model.zero_grad(set_to_none=True)
    assert memory.returned
    assert is_free(memory)


def test_without_large_pages(monkeypatch):
    monkeypatch.setattr(pages, "_memory", lambda: None)
    assert pages.new_map(1025, 1024, like=LIKE).fill_(2).mean() == 2
    pages.give_back()


def test_on_another_device():
    assert pages.new_map(4096, 4096, like=torch.zeros(1, device="meta")).device.type == "meta"
