"""Small data sets that several packages' tests make: folders of pictures by class, tar shards, COCO's json."""

import io
import json
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


@pytest.fixture(scope="session")
def colour_detector():
    """colour_detector(with_masks=True) -> (model, info): finds what is red, green or blue, scored by brightness."""
    import torch
    from torch import nn

    from densevit.models.detector import Detector
    from densevit.weights.info import ModelInfo

    class ColourDetector(Detector):
        def __init__(self, with_masks):
            nn.Module.__init__(self)
            self.in_channels, self.num_classes, self.with_masks = 3, 3, with_masks

        def features(self, images):
            return [images]

        def detect(self, batch, maps):
            return [self.search(maps[0][i, :, :H, :W]) for i, (H, W) in enumerate(batch.image_sizes)]

        def search(self, image):
            found = []
            for k in range(3):
                others = image[[c for c in range(3) if c != k]]
                on = (image[k] > 0.3) & (others < 0.3).all(dim=0)
                if on.any() and (score := image[k][on].median()) >= self.score_threshold:
                    rows, columns = on.any(dim=1).nonzero(), on.any(dim=0).nonzero()
                    found.append((score, k, [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]))
            found.sort(key=lambda each: -each[0])
            masks = {"masks": torch.ones(len(found), 1, 28, 28)} if self.with_masks else {}
            return masks | {
                "boxes": torch.tensor([box for _, _, box in found], dtype=torch.float32).reshape(-1, 4),
                "scores": torch.tensor([score for score, _, _ in found]),
                "labels": torch.tensor([k for _, k, _ in found], dtype=torch.int64),
            }

    def make(with_masks=True):
        info = ModelInfo(
            task="detection",
            model={"name": "mask_rcnn_hlg_tiny", "num_classes": 3},
            classes=("red ball", "tree", "car"),
            palette=((200, 0, 0), (0, 160, 0), (0, 0, 200)),
            category_ids=(2, 40, 7),
            mean=(0.0,) * 3,
            std=(255.0,) * 3,
            inference={"short_side": 120, "long_side": 400, "score_threshold": 0.05},
        )
        return ColourDetector(with_masks), info

    return make


@pytest.fixture(scope="session")
def colour_picture():
    """(60, 90, 3) uint8: a red rectangle from row 10, column 20, and a darker blue one from row 45, column 60."""
    picture = np.full((60, 90, 3), 20, dtype=np.uint8)
    picture[10:40, 20:50] = (230, 10, 10)
    picture[45:55, 60:80] = (10, 10, 140)
    return picture


@pytest.fixture(scope="session")
def write_coco():
    """write_coco(root, {"a.png": [annotation, ...]}, split=, size=(W, H), categories=): noise and its json.

    Annotations get an id, their image's id (10, 20 ...) and iscrowd 0 unless they have them; the document is returned.
    """

    def write(root, objects, *, split="train", size=(60, 40), categories=((2, "cat"), (7, "dog"))):
        generator = np.random.default_rng(0)
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        document = {"images": [], "annotations": [], "categories": [{"id": k, "name": name} for k, name in categories]}
        for number, (name, annotations) in enumerate(objects.items(), start=1):
            pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / name)
            document["images"].append({"id": 10 * number, "file_name": name, "width": size[0], "height": size[1]})
            for annotation in annotations:
                numbers = {"id": len(document["annotations"]) + 1, "image_id": 10 * number, "iscrowd": 0}
                document["annotations"].append(numbers | annotation)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
        return document

    return write
