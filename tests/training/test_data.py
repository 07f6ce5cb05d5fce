"""The stream of samples: what is drawn depends on the seed and the position alone."""

from dataclasses import replace

import pytest
import torch

from densevit.errors import UserError
from densevit.training.data import SegmentationData
from densevit.training.sample_stream import SeededDataset, StepSampler


def batches(**changes):
    arguments = {"batch_size": 4, "num_batches": 6, "seed": 3} | changes
    return list(StepSampler(arguments.pop("num_samples", 10), **arguments))


def test_each_pass_is_a_permutation():
    stream = [place for batch in batches(num_batches=5) for place in batch]
    assert [position for position, _ in stream] == list(range(20))
    first, second = [index for _, index in stream[:10]], [index for _, index in stream[10:]]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first != [index for batch in batches(seed=4) for _, index in batch][:10]


@pytest.mark.parametrize("start", [0, 1, 3, 5])
def test_started_anywhere_the_rest_is_the_same(start):
    sampler = StepSampler(10, batch_size=4, num_batches=6, seed=3, start_batch=start)
    assert list(sampler) == batches()[start:]
    assert len(sampler) == 6


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_shares_of_devices_make_up_each_batch(world_size):
    shares = [batches(rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *parts in zip(batches(), *shares, strict=True):
        assert {len(part) for part in parts} == {4 // world_size}
        assert sorted(place for part in parts for place in part) == whole


def test_one_image_fills_a_batch():
    assert [[index for _, index in batch] for batch in batches(num_samples=1, num_batches=2)] == [[0] * 4] * 2


def test_refusals():
    with pytest.raises(UserError, match="cannot be shared evenly by 3 devices"):
        StepSampler(10, batch_size=4, num_batches=1, seed=0, world_size=3)


def test_augmentation_follows_the_position_and_leaves_the_generator_alone():
    class Random(torch.utils.data.Dataset):
        def __getitem__(self, index):
            return index, torch.rand(1).item()

    dataset = SeededDataset(Random(), seed=5)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert dataset[7, 2] == dataset[7, 2]
    assert dataset[7, 2] != dataset[8, 2]
    assert dataset[7, 2] != SeededDataset(Random(), seed=6)[7, 2]
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_do_not_depend_on_the_number_of_workers(tiny):
    config = tiny().data
    for_workers = []
    for num_workers in (0, 2):
        data = SegmentationData(replace(config, num_workers=num_workers), num_batches=3, seed=1)
        for_workers.append(list(data.train_dataloader()))
    for ours, theirs in zip(*for_workers, strict=True):
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["mask"], theirs["mask"])
        assert ours["id"] == theirs["id"]


def test_batches_have_the_documented_form(tiny):
    data = SegmentationData(tiny(data={"crop_size": (24, 40)}).data, num_batches=2, seed=1)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 24, 40)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (2, 24, 40)
    assert batch["mask"].dtype == torch.int64
    validation = list(data.val_dataloader())
    assert len(validation) == len(data.val_set)
    assert validation[0]["image"].shape == (1, 3, 32, 48)


def test_a_batch_larger_than_the_data_set(tiny):
    data = SegmentationData(tiny(data={"batch_size": 7}).data, num_batches=1, seed=1)
    batch = next(iter(data.train_dataloader()))
    assert len(batch["id"]) == 7
    assert len(set(batch["id"])) == 5
