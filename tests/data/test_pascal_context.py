"""Pascal Context on a tiny tree, made from a tiny json of the published shape."""

import json

import numpy as np
import pytest
from PIL import Image

from densevit.cli.main import main
from densevit.data.catalog import create_dataset
from densevit.data.check import check_dataset
from densevit.data.pascal_context import CATEGORY_IDS, CLASSES, PALETTE, PascalContext, convert_json, decode_rle
from densevit.errors import UserError


def pack(mask):
    """The compressed run-length form of a mask, written from its definition."""
    flat = mask.T.reshape(-1).astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    if flat[0]:
        runs.insert(0, 0)
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        while True:
            bits, value = value & 31, value >> 5
            more = not ((value == 0 and not bits & 16) or (value == -1 and bits & 16))
            text += chr((bits | 32 if more else bits) + 48)
            if not more:
                break
    return {"size": list(mask.shape), "counts": text}


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2010"
    (root / "JPEGImages").mkdir(parents=True)
    images, annotations = [], []
    for number, phase in enumerate(("train", "train", "val", "test")):
        name = f"2008_00000{number}"
        Image.new("RGB", (9, 6)).save(root / "JPEGImages" / f"{name}.jpg")
        images.append({"image_id": number, "file_name": f"{name}.jpg", "phase": phase, "height": 6, "width": 9})
        left = np.zeros((6, 9), dtype=bool)
        left[1:5, :6] = True
        right = np.zeros((6, 9), dtype=bool)
        right[2:, 4:] = True
        for category, mask in ((2, left), (458, right), (400, np.eye(6, 9, dtype=bool))):
            annotations.append({"image_id": number, "category_id": category, "segmentation": pack(mask)})
    (root / "trainval_merged.json").write_text(json.dumps({"images": images, "annos_segmentation": annotations}))
    return root


def expected():
    ids = np.zeros((6, 9), dtype=np.uint8)
    ids[1:5, :6] = CLASSES.index("aeroplane")
    ids[2:, 4:] = CLASSES.index("wood")
    ids[np.eye(6, 9, dtype=bool)] = 0  # a category outside the 59
    return ids


def test_sixty_classes(root):
    assert convert_json(root) == 3
    data = create_dataset("pascal_context", root=root)
    assert data.ids == ("2008_000000", "2008_000001")
    assert data.num_classes == 60
    np.testing.assert_array_equal(data[0]["mask"].numpy(), expected())
    assert PascalContext(root, split="val").ids == ("2008_000002",)
    assert check_dataset(data).ok


def test_fifty_nine_classes(root):
    convert_json(root)
    data = PascalContext(root, background=False)
    assert data.classes == CLASSES[1:]
    ids = expected().astype(int)
    np.testing.assert_array_equal(data[0]["mask"].numpy(), np.where(ids == 0, 255, ids - 1))
    assert check_dataset(data).ok


@pytest.mark.parametrize("seed", range(5))
def test_run_lengths(seed):
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.random((7, 90)) < 0.5, rng.integers(1, 40, 7), axis=0)
    packed = pack(mask)
    np.testing.assert_array_equal(decode_rle(packed), mask)
    flat = mask.T.reshape(-1)
    assert decode_rle({"size": list(mask.shape), "counts": [0, flat.size]}).all()
    with pytest.raises(UserError, match="the json is damaged"):
        decode_rle({"size": [3, 3], "counts": [4]})


def test_run_lengths_against_pycocotools():
    coco = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    np.testing.assert_array_equal(decode_rle(coco.encode(np.asfortranarray(mask.astype(np.uint8)))), mask)


def test_published_classes():
    assert len(CLASSES) == len(CATEGORY_IDS) == len(PALETTE) == 60
    assert list(CLASSES[1:]) == sorted(CLASSES[1:])  # categories are numbered alphabetically
    assert list(CATEGORY_IDS) == sorted(set(CATEGORY_IDS))
    known = dict(zip(CLASSES, CATEGORY_IDS, strict=True))
    assert (known["aeroplane"], known["person"], known["sky"], known["wood"]) == (2, 284, 360, 458)


def test_what_is_missing(root, capsys):
    with pytest.raises(UserError, match="densevit data convert pascal_context --root"):
        PascalContext(root)
    assert main(["data", "convert", "pascal_context", "--root", str(root)]) == 0
    assert "3 masks" in capsys.readouterr().out
    (root / "JPEGImages" / "2008_000001.jpg").unlink()
    with pytest.raises(UserError, match="lists '2008_000001', which is not in"):
        PascalContext(root)
    with pytest.raises(UserError, match=r"trainval_merged\.json does not exist"):
        convert_json(root.parent)
