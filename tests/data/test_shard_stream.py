"""The endless shuffled stream: complete passes, the same again, resumed in the middle, seeded augmentation."""

import itertools
from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader

from densevit.data.catalog import create_dataset
from densevit.data.shard_stream import ShardBatches, shuffled_samples


def keys(data, **args):
    return (raw.key for raw in shuffled_samples(data.shards, seed=3, **args))


@pytest.mark.parametrize(("num_readers", "num_shards"), [(1, 8), (2, 8), (4, 8), (8, 8), (3, 9)])
def test_every_pass_has_everything_once_over_all_readers(tmp_path, write_shards, num_readers, num_shards):
    write_shards(tmp_path, num_shards=num_shards, samples_each=5)
    data = create_dataset("shards", root=tmp_path)
    share = num_shards // num_readers * 5
    # a reader's buffer empties after a block; these passes together are whole blocks for every reader
    passes = 4 if num_readers > 1 else 1
    found = Counter()
    for reader in range(num_readers):
        stream = keys(data, reader=reader, num_readers=num_readers, buffer_size=7)
        found.update(itertools.islice(stream, passes * share))
    assert found == Counter({f"s{index:03d}": passes for index in range(5 * num_shards)})


def test_shuffled_the_same_way_for_a_seed_and_differently_in_each_pass(tmp_path, write_shards):
    write_shards(tmp_path, num_shards=4, samples_each=10)
    data = create_dataset("shards", root=tmp_path)
    one, again = (list(itertools.islice(keys(data, reader=0, num_readers=1, buffer_size=20), 80)) for _ in range(2))
    assert one == again
    assert sorted(one[:40]) == sorted(one[40:])
    assert one[:40] != one[40:]
    assert one[:40] != sorted(one[:40])
    shards_of_first_ten = {int(key[1:]) // 10 for key in one[:10]}
    assert len(shards_of_first_ten) > 1  # mixed over shards, not only within one


@pytest.mark.parametrize("skip", [1, 39, 40, 41, 100])
def test_skipping_equals_reading(tmp_path, write_shards, skip):
    write_shards(tmp_path, num_shards=4, samples_each=10)
    data = create_dataset("shards", root=tmp_path)
    whole = list(itertools.islice(keys(data, reader=1, num_readers=2, buffer_size=8), skip + 30))
    rest = list(itertools.islice(keys(data, reader=1, num_readers=2, buffer_size=8, skip=skip), 30))
    assert rest == whole[skip:]


def add_noise(sample):
    return {"id": sample["id"], "label": sample["label"], "noise": torch.rand(2)}


def batches(data, *, num_workers=0, start_batch=0, num_batches=7, **args):
    stream = ShardBatches(
        data, batch_size=3, num_batches=num_batches, seed=5, start_batch=start_batch, shuffle_buffer=4, **args
    )
    assert len(stream) == num_batches
    return list(DataLoader(stream, batch_size=None, num_workers=num_workers, generator=torch.Generator()))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_anywhere_equals_uninterrupted(tmp_path, write_shards, num_workers):
    write_shards(tmp_path, num_shards=3, samples_each=4)
    data = create_dataset("shards", root=tmp_path, transform=add_noise)
    state = torch.get_rng_state()
    whole = batches(data, num_workers=num_workers)
    assert len(whole) == 7
    assert num_workers or torch.equal(state, torch.get_rng_state())
    assert whole[0]["label"].shape == (3,)
    for start in (1, 4) if num_workers else range(7):
        rest = batches(data, num_workers=num_workers, start_batch=start)
        assert [batch["id"] for batch in rest] == [batch["id"] for batch in whole[start:]]
        assert all(torch.equal(a["noise"], b["noise"]) for a, b in zip(rest, whole[start:], strict=True))


def test_devices_read_different_samples_with_different_noise(tmp_path, write_shards):
    write_shards(tmp_path, num_shards=4, samples_each=3)
    data = create_dataset("shards", root=tmp_path, transform=add_noise)
    parts = [batches(data, num_batches=8, rank=rank, world_size=2) for rank in range(2)]
    found = Counter(key for part in parts for batch in part for key in batch["id"])
    assert set(found.values()) == {4}  # 8 batches of 3 on 2 devices are 4 passes over 12 samples
    noise = torch.cat([batch["noise"] for part in parts for batch in part])
    assert len(noise.unique(dim=0)) == 48
