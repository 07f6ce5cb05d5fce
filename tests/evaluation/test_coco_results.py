"""Result files: read back and scored by pycocotools, ids of images and categories, numbers without loss."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from densevit.errors import UserError
from densevit.evaluation.coco_results import image_id_of, image_results, read_image_ids, shortest, write_results
from densevit.evaluation.rle import decode_masks, encode_masks, mask_areas

pytest.importorskip("faster_coco_eval")


def test_the_server_reads_them(tmp_path, capsys):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    masks = torch.zeros(2, 30, 50, dtype=torch.bool)
    masks[0, 5:20, 10:40], masks[1, 0:9, 0:7] = True, True
    boxes = np.array([[10, 5, 40, 20], [0, 0, 7, 9]], dtype=np.float32)
    entries = image_results(
        boxes=boxes, labels=np.array([1, 0]), scores=np.array([0.9, 0.1], dtype=np.float32), masks=masks,
        image_id=139, category_ids=(7, 90),
    )  # fmt: skip
    write_results(entries, tmp_path / "results.json")
    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": 139, "height": 30, "width": 50}],
        "categories": [{"id": 7, "name": "a"}, {"id": 90, "name": "b"}],
        "annotations": [
            {"id": n + 1, "image_id": 139, "category_id": each["category_id"], "bbox": each["bbox"], "iscrowd": 0,
             "area": 450.0 if n == 0 else 63.0, "segmentation": each["segmentation"]}
            for n, each in enumerate(entries)
        ],
    }  # fmt: skip
    truth.createIndex()
    results = truth.loadRes(str(tmp_path / "results.json"))
    for kind in ("bbox", "segm"):
        evaluation = cocoeval.COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)
    assert entries[0]["bbox"] == [10, 5, 30, 15]
    assert entries[0]["score"] == 0.9
    assert (results.annToMask(results.anns[2]) == masks[1].numpy()).all()


def test_without_masks_and_without_objects():
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, dtype=int), "scores": np.zeros(0)}
    assert image_results(**empty, masks=None, image_id=1, category_ids=(1,)) == []
    assert image_results(**empty, masks=np.zeros((0, 4, 5), dtype=bool), image_id=1, category_ids=(1,)) == []
    one = image_results(
        boxes=torch.tensor([[0.0, 1.0, 2.0, 3.0]]), labels=torch.tensor([0]), scores=torch.tensor([0.25]), masks=None,
        image_id=1, category_ids=(1,),
    )  # fmt: skip
    assert list(one[0]) == ["image_id", "category_id", "bbox", "score"]


def test_numbers_are_short_and_lose_nothing():
    values = np.random.default_rng(0).random(500).astype(np.float32)
    assert all(np.float32(shortest(value)) == value for value in values)
    assert max(len(str(shortest(value))) for value in values) <= 13
    assert shortest(np.float32(0.1)) == 0.1


def test_masks_and_codes():
    masks = torch.rand(4, 13, 21, generator=torch.Generator().manual_seed(0)) > 0.5
    codes = encode_masks(masks)
    assert torch.equal(decode_masks(codes, size=(13, 21)), masks)
    assert mask_areas(codes, size=(13, 21)) == masks.sum(dim=(1, 2)).tolist()
    assert torch.equal(decode_masks(encode_masks(masks.float() * 0.3), size=(13, 21)), masks)  # true where not 0
    assert decode_masks([], size=(3, 4)).shape == (0, 3, 4)


def test_image_ids(tmp_path):
    file = tmp_path / "image_info.json"
    file.write_text(json.dumps({"images": [{"id": 42, "file_name": "val2017/street.jpg"}]}))
    ids = read_image_ids(file)
    assert image_id_of(Path("photos/street.jpg"), ids) == 42
    assert image_id_of(Path("000000000139.jpg"), None) == 139
    with pytest.raises(UserError, match=r"other\.jpg is not among the images"):
        image_id_of(Path("other.jpg"), ids)
    for name in ("street.jpg", "12a.jpg", "²³.jpg"):
        with pytest.raises(UserError, match="is not named by its image id; give the ids with --annotations"):
            image_id_of(Path(name), None)
    with pytest.raises(UserError, match="cannot open annotations file"):
        read_image_ids(tmp_path / "none.json")
    for text in ("{", "[]", '{"images": [{"id": 1}]}', '{"images": [{"id": "a", "file_name": "b"}]}'):
        file.write_text(text)
        with pytest.raises(UserError, match="is no COCO json"):
            read_image_ids(file)


def test_images_of_one_name_in_several_folders(tmp_path):
    file = tmp_path / "ids.json"
    images = [{"id": 11, "file_name": "a/1.jpg"}, {"id": 22, "file_name": "b/1.jpg"}, {"id": 33, "file_name": "2.jpg"}]
    file.write_text(json.dumps({"images": images}))
    ids = read_image_ids(file)
    assert [image_id_of(Path(name), ids) for name in ("x/a/1.jpg", "x/b/1.jpg", "x/2.jpg")] == [11, 22, 33]
    with pytest.raises(UserError, match=r"1\.jpg may be a/1\.jpg or b/1\.jpg"):
        image_id_of(Path("x/1.jpg"), ids)
    with pytest.raises(UserError, match="cannot open annotations file"):
        read_image_ids(tmp_path)
