"""Tar shards: what is read, how it is shared, and files that are cut short or wrong."""

import gzip
import os
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from densevit.data.catalog import create_dataset
from densevit.data.shards import count_samples, read_shard
from densevit.errors import UserError

REAL = Path(os.environ.get("DENSEVIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cifar10"


def ids(samples):
    return [sample["id"] for sample in samples]


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_one_pass_in_order(tmp_path, write_shards, suffix):
    write_shards(tmp_path, num_shards=2, samples_each=5, suffix=suffix)
    data = create_dataset("shards", root=tmp_path)
    assert data.classes == ("class0", "class1", "class2")
    samples = list(data)
    assert ids(samples) == [f"s{index:03d}" for index in range(10)]
    assert [sample["label"] for sample in samples] == [index % 3 for index in range(10)]
    assert samples[7]["image"].shape == (3, 4, 6)
    assert samples[7]["image"][:, 0, 0].tolist() == [7, 1, 7]
    assert count_samples(data.shards[1]) == 5


def test_the_last_train_shards_can_be_the_validation_set(tmp_path, write_shards):
    write_shards(tmp_path, num_shards=3, samples_each=2)
    train, val = (create_dataset("shards", root=tmp_path, split=split, val_shards=1) for split in ("train", "val"))
    assert ids(train) == ["s000", "s001", "s002", "s003"]
    assert ids(val) == ["s004", "s005"]
    with pytest.raises(UserError, match=r"no shards val-\*\.tar .*; it has those of: train; val_shards=1 would"):
        create_dataset("shards", root=tmp_path, split="val")
    with pytest.raises(UserError, match="val_shards 3 must leave some of the 3"):
        create_dataset("shards", root=tmp_path, split="val", val_shards=3)


@pytest.mark.parametrize(("num_shards", "world_size", "num_workers"), [(5, 1, 2), (5, 2, 0), (5, 2, 2), (2, 3, 1)])
def test_readers_cover_everything_exactly_once(tmp_path, write_shards, num_shards, world_size, num_workers):
    write_shards(tmp_path, num_shards=num_shards, samples_each=4)
    data = create_dataset("shards", root=tmp_path, transform=drop_image)
    found = []
    for rank in range(world_size):
        loader = DataLoader(data.share(rank=rank, world_size=world_size), batch_size=None, num_workers=num_workers)
        found += ids(loader)
    assert sorted(found) == [f"s{index:03d}" for index in range(4 * num_shards)]


def drop_image(sample):
    return {"id": sample["id"]}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_shard_cut_short_anywhere_is_named(tmp_path, write_shards, suffix):
    write_shards(tmp_path, num_shards=1, samples_each=6, suffix=suffix)
    path = tmp_path / f"train-000{suffix}"
    whole = path.read_bytes()
    content_end = 6 * 4 * 512  # two members of one block and its header each; behind it only empty blocks
    last = content_end if suffix == ".tar" else len(whole)
    for length in [0, 1, 100, 511, 512, 513, 1024, 2048, 2049, 3000, last // 2, last - 513, last - 512, last - 1]:
        if length >= last:
            continue
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"shard .*train-000.*(cut short or damaged|holds no sample)"):
            list(read_shard(path))
    path.write_bytes(b"not a tar at all, but text" * 100)
    with pytest.raises(UserError, match="cut short or damaged after 0 files"):
        list(read_shard(path))


def test_compression_is_told_by_the_file_not_its_name(tmp_path, write_shards):
    write_shards(tmp_path, num_shards=1, samples_each=3)
    path = tmp_path / "train-000.tar"
    expected = list(read_shard(path))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_shard(path)) == expected


def test_a_compressed_shard_whose_tar_ends_between_two_files_is_named(tmp_path, write_shards):
    write_shards(tmp_path, num_shards=1, samples_each=6)
    path = tmp_path / "train-000.tar.gz"
    path.write_bytes(gzip.compress((tmp_path / "train-000.tar").read_bytes()[: 8 * 2 * 512]))  # 8 of 12 files
    with pytest.raises(UserError, match=r"cut short or damaged after 8 files \(no end marker\)"):
        list(read_shard(path))


def test_damage_inside_a_compressed_shard_is_found(tmp_path, write_shards):
    write_shards(tmp_path, num_shards=1, samples_each=6, suffix=".tar.gz")
    path = tmp_path / "train-000.tar.gz"
    whole = bytearray(path.read_bytes())
    whole[-6] ^= 1  # the checksum
    path.write_bytes(whole)
    with pytest.raises(UserError, match="cut short or damaged"):
        list(read_shard(path))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([("x.png", b"")], r"sample 'x' of shard .* has no \.cls, only \.png"),
        ([("x.cls", b"1")], r"sample 'x' of shard .* has no picture"),
        (
            [("x.jpg", b"I am text"), ("x.cls", b"1")],
            r"cannot read image .*train-000\.tar/x: it is damaged, cut off or no picture",
        ),
        ([("x.jpg", b""), ("x.cls", b"cat")], r"train-000\.tar/x\.cls holds 'cat'; it must hold a class index"),
        ([("x.jpg", b""), ("x.cls", b"3")], r"train-000\.tar/x has class 3, but with 3 classes a class is 0 \.\. 2"),
    ],
)
def test_wrong_samples_are_named(tmp_path, write_shard, write_shards, extra, message):
    write_shards(tmp_path, num_shards=1, samples_each=1)
    write_shard(tmp_path / "train-000.tar", [0], extra=extra)
    with pytest.raises(UserError, match=message):
        list(create_dataset("shards", root=tmp_path))


def test_hidden_files_and_folders_are_no_samples(tmp_path, write_shard, write_shards):
    write_shards(tmp_path, num_shards=1, samples_each=1)
    write_shard(tmp_path / "train-000.tar", [0], extra=[("a/._b.jpg", b"x"), ("a/b.seg.png", b"y")])
    with pytest.raises(UserError, match=r"sample 'a/b' .* only \.seg\.png"):
        list(create_dataset("shards", root=tmp_path))


def test_no_class_list(tmp_path, write_shards):
    write_shards(tmp_path, num_shards=1, samples_each=1)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match=r"no class list in .*; write classes\.txt"):
        create_dataset("shards", root=tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="CIFAR-10 shards are not at DENSEVIT_TEST_DATA")
def test_cifar10():
    data = create_dataset("shards", root=REAL, split="test")
    first = next(iter(data))
    assert first["image"].shape == (3, 32, 32)
    assert data.classes[first["label"]] == first["id"].split("_")[0]
    assert count_samples(data.shards[0]) == 5000
    assert len(create_dataset("shards", root=REAL, split="train", val_shards=1).shards) == 9
