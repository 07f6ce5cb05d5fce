"""Small data sets that several packages' tests make: folders of pictures by class, tar shards."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image


def _write_shard(path, labels, *, first=0, size=(6, 4), extra=()):
    """One sample for each label, keys s000, s001 ... from `first`; `extra` are (name, bytes) at the end."""
    members = []
    for index, label in enumerate(labels, start=first):
        picture = io.BytesIO()
        Image.new("RGB", size, (index % 256, label, 7)).save(picture, format="PNG")
        members += [(f"s{index:03d}.png", picture.getvalue()), (f"s{index:03d}.cls", str(label).encode())]
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in [*members, *extra]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="session")
def write_shard():
    """write_shard(path, labels, first=0, size=(W, H), extra=[(name, bytes)])."""
    return _write_shard


@pytest.fixture(scope="session")
def write_shards():
    """write_shards(root, num_shards=, samples_each=, split="train", suffix=".tar", num_classes=3): numbered samples."""

    def write(root, *, num_shards, samples_each, split="train", suffix=".tar", num_classes=3, size=(6, 4)):
        root.mkdir(parents=True, exist_ok=True)
        (root / "classes.txt").write_text("".join(f"class{k}\n" for k in range(num_classes)))
        for number in range(num_shards):
            first = number * samples_each
            labels = [index % num_classes for index in range(first, first + samples_each)]
            _write_shard(root / f"{split}-{number:03d}{suffix}", labels, first=first, size=size)
        return root

    return write


@pytest.fixture(scope="session")
def write_class_folders():
    """write_class_folders(root, names, number, size=(W, H), suffix=".png"): noise, tinted by class."""

    def write(root, names, number, *, size=(40, 34), suffix=".png"):
        generator = np.random.default_rng(0)
        for tint, name in enumerate(names):
            folder = root / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = generator.integers(0, 100, (size[1], size[0], 3)) + 50 * (np.arange(3) == tint % 3)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}{suffix}")
        return root

    return write
