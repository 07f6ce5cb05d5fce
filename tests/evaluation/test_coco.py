"""COCO scores: equal to pycocotools on hard cases, by hand, over processes, and what cannot be scored."""

import contextlib
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from densevit.errors import UserError
from densevit.evaluation.coco import CocoMetric, DetectionScores
from densevit.evaluation.coco_scores import SUMMARY

pytest.importorskip("faster_coco_eval")
CLASSES = ("cat", "dog", "horse", "never there")
COCO128 = Path(os.environ.get("DENSEVIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "coco128"


def ellipse(box, size):
    """(H, W) bool: the ellipse inside an XYXY box."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    left, top, right, bottom = box
    return ((x - (left + right) / 2) / max((right - left) / 2, 0.5)) ** 2 + (
        (y - (top + bottom) / 2) / max((bottom - top) / 2, 0.5)
    ) ** 2 <= 1


def random_box(generator, size):
    """Of any size from a few pixels to the whole image."""
    height, width = size
    w, h = np.exp(generator.uniform(np.log([4, 4]), np.log([width, height])))
    left, top = generator.uniform(0, width - w), generator.uniform(0, height - h)
    return np.array([left, top, left + w, top + h], dtype=np.float32)


def objects(boxes, labels, size, **more):
    masks = np.stack([ellipse(box, size) for box in boxes]) if len(boxes) else np.zeros((0, *size), dtype=bool)
    return {
        "boxes": torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": torch.tensor(masks),
        **{name: torch.tensor(values) for name, values in more.items()},
    }


def hard_cases(num_images=12, seed=0):
    """Images of several sizes with crowds, jittered and double detections, equal scores; two images without truth."""
    generator = np.random.default_rng(seed)
    predictions, truths, sizes = [], [], []
    for index in range(num_images):
        size = [(120, 170), (200, 110), (64, 64)][index % 3]
        number = 0 if index in (3, 7) else int(generator.integers(1, 9))
        boxes = [random_box(generator, size) for _ in range(number)]
        labels = generator.integers(0, 3, number).tolist()
        crowd = (generator.random(number) < 0.2).tolist()
        truths.append(objects(boxes, labels, size, iscrowd=np.array(crowd, dtype=bool)))
        found, found_labels = [], []
        for box, label in [*zip(boxes, labels, strict=True)] * 2:
            if generator.random() < 0.8:
                found.append(box + generator.normal(0, 0.07, 4) * np.tile(box[2:] - box[:2], 2))
                found_labels.append(label if generator.random() < 0.9 else int(generator.integers(0, 4)))
        for _ in range(int(generator.integers(0, 5))):
            found.append(random_box(generator, size))
            found_labels.append(int(generator.integers(0, 4)))
        scores = generator.integers(1, 8, len(found)).astype(np.float32) / 8  # many ties
        found = [np.sort(box.reshape(2, 2), axis=0).reshape(4) for box in found]
        predictions.append(objects(found, found_labels, size, scores=scores))
        sizes.append(size)
    return predictions, truths, sizes


def by_pycocotools(predictions, truths, image_ids, sizes, *, kind, num_classes):
    """The twelve numbers and each class's AP, from files as COCO's own tools read them."""
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    from pycocotools import mask as codes

    def entries(each, image_id):
        for index in range(len(each["labels"])):
            left, top, right, bottom = each["boxes"][index].double().tolist()
            code = codes.encode(np.asfortranarray(each["masks"][index].numpy().astype(np.uint8)))
            yield {
                "image_id": image_id, "category_id": 10 * int(each["labels"][index]) + 7,
                "bbox": [left, top, right - left, bottom - top], "segmentation": code,
            }, int(codes.area(code)), index  # fmt: skip

    annotations, results = [], []
    for found, truth, image_id in zip(predictions, truths, image_ids, strict=True):
        for entry, area, index in entries(truth, image_id):
            area = float(truth["area"][index]) if "area" in truth else area
            annotations.append(entry | {"area": area, "iscrowd": int(truth["iscrowd"][index])})
        for entry, _, index in entries(found, image_id):
            del entry["bbox" if kind == "segm" else "segmentation"]
            results.append(entry | {"score": float(found["scores"][index])})
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "images": [
                {"id": i, "height": size[0], "width": size[1]} for i, size in zip(image_ids, sizes, strict=True)
            ],
            "annotations": annotations,
            "categories": [{"id": 10 * k + 7, "name": str(k)} for k in range(num_classes)],
        }
        reference.createIndex()
        evaluation = cocoeval.COCOeval(reference, reference.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_class = [
        values[values > -1].mean() if (values > -1).any() else math.nan for values in precision.transpose(2, 0, 1)
    ]
    return np.where(evaluation.stats < 0, math.nan, evaluation.stats), np.array(by_class)


def check_equal(scores, predictions, truths, image_ids, sizes):
    for kind, part in (("bbox", scores.box), ("segm", scores.mask)):
        numbers, by_class = by_pycocotools(
            predictions, truths, image_ids, sizes, kind=kind, num_classes=len(scores.classes)
        )
        np.testing.assert_allclose(list(part.summary().values()), numbers, rtol=0, atol=1e-9)
        np.testing.assert_allclose(part.class_ap, by_class, rtol=0, atol=1e-9)


def score(predictions, truths, image_ids, sizes, *, classes=CLASSES, with_masks=True):
    metric = CocoMetric(classes, with_masks=with_masks)
    metric.update(predictions, truths, image_ids, sizes)
    return metric.compute()


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_pycocotools(seed):
    predictions, truths, sizes = hard_cases(seed=seed)
    image_ids = np.random.default_rng(seed).permutation(1000)[: len(sizes)].tolist()
    scores = score(predictions, truths, image_ids, sizes)
    check_equal(scores, predictions, truths, image_ids, sizes)
    assert 0.05 < scores.box.ap < 0.9
    assert any(truth["iscrowd"].any() for truth in truths)
    assert scores.support[3] == 0
    assert math.isnan(scores.mask.class_ap[3])  # predicted, but never true: no score rather than 0


@pytest.mark.skipif(not COCO128.is_dir(), reason="the coco128 data set is not here")
def test_equal_to_pycocotools_on_real_annotations():
    from faster_coco_eval import mask as codes

    file = json.loads((COCO128 / "annotations" / "instances_val.json").read_text())
    classes = [category["name"] for category in file["categories"]]
    place = {category["id"]: k for k, category in enumerate(file["categories"])}
    generator, predictions, truths, image_ids, sizes = np.random.default_rng(0), [], [], [], []
    for image in file["images"]:
        size = (image["height"], image["width"])
        own = [each for each in file["annotations"] if each["image_id"] == image["id"]]
        masks = [codes.decode(codes.merge(c) if isinstance(c, list) else c) for c in
                 (codes.frPyObjects(each["segmentation"], *size) for each in own)]  # fmt: skip
        corners = np.array([each["bbox"] for each in own], dtype=np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        truth = {
            "boxes": torch.tensor(corners),
            "labels": torch.tensor([place[each["category_id"]] for each in own], dtype=torch.int64),
            "masks": torch.tensor(np.array(masks).reshape(-1, *size)).bool(),
            "iscrowd": torch.tensor([bool(each["iscrowd"]) for each in own]),
            "area": torch.tensor([each["area"] for each in own], dtype=torch.float64),
        }
        shift = tuple(generator.integers(-4, 5, 2).tolist())
        kept = torch.tensor(generator.random(len(own)) < 0.9)
        truths.append(truth)
        predictions.append({
            "boxes": (truth["boxes"] + torch.tensor(generator.normal(0, 4, (len(own), 4))).float())[kept],
            "labels": truth["labels"][kept],
            "masks": torch.roll(truth["masks"], shift, dims=(1, 2))[kept],
            "scores": torch.tensor(generator.random(len(own)), dtype=torch.float32)[kept],
        })  # fmt: skip
        image_ids.append(image["id"])
        sizes.append(size)
    scores = score(predictions, truths, image_ids, sizes, classes=classes)
    assert sum(scores.support) == 203  # 205, of which 2 are crowds
    assert scores.mask.ap > 0.3
    check_equal(scores, predictions, truths, image_ids, sizes)


def test_by_hand():
    size, box = (40, 40), [4.0, 4.0, 24.0, 24.0]
    truth = objects([box], [0], size)
    wrong_class, off = objects([box], [1], size, scores=[0.9]), objects([[4, 4, 24, 17]], [0], size, scores=[0.9])
    perfect = score([objects([box], [0], size, scores=[0.3])], [truth], [1], [size])
    assert perfect.box.ap == perfect.mask.ap == perfect.headline == 1
    assert perfect.support == (1, 0, 0, 0)
    assert perfect.baseline.endswith("to be found: 1 object of 1 class in 1 image")
    assert math.isnan(perfect.box.summary()["ap_large"])
    assert score([wrong_class], [truth], [1], [size]).box.ap == 0
    # IoU 13/20 = 0.65 is enough for the thresholds 0.50, 0.55, 0.60 and 0.65
    partly = score([off], [truth], [1], [size], with_masks=False)
    assert partly.box.ap == pytest.approx(0.4, abs=1e-12)
    assert partly.mask is None
    assert partly.headline == partly.box.ap


def test_a_detection_in_a_crowd_is_no_mistake():
    size, box, crowd = (60, 60), [2.0, 2.0, 22.0, 22.0], [30.0, 30.0, 60.0, 60.0]
    found = objects([[*crowd[:2], 45.0, 45.0], box], [0, 0], size, scores=[0.9, 0.8])
    with_crowd = objects([box, crowd], [0, 0], size, iscrowd=[False, True])
    assert score([found], [with_crowd], [1], [size]).box.ap == 1
    assert score([found], [objects([box], [0], size)], [1], [size]).box.ap == pytest.approx(0.5)


def test_sizes_go_by_the_annotations_area():
    size, box = (100, 120), [0.0, 0.0, 100.0, 95.0]  # the box is large (9500), its ellipse is not (7461)
    found = objects([box], [0], size, scores=[0.9])
    for truth, kind in [
        (objects([box], [0], size), "ap_medium"),
        (objects([box], [0], size, area=[100.0]), "ap_small"),
        (objects([box], [0], size, area=[9500.0]), "ap_large"),
    ]:
        summary = score([found], [truth], [1], [size]).box.summary()
        assert [name for name in ("ap_small", "ap_medium", "ap_large") if not math.isnan(summary[name])] == [kind]


def test_batches_and_order_change_nothing_and_reset_forgets():
    predictions, truths, sizes = hard_cases()
    image_ids = list(range(len(sizes)))
    whole = score(predictions, truths, image_ids, sizes).to_dict()
    metric = CocoMetric(CLASSES, with_masks=True)
    for _ in range(2):
        for index in reversed(image_ids):
            metric.update([predictions[index]], [truths[index]], [index], [sizes[index]])
        assert metric.compute().to_dict() == whole
        metric.reset()
    assert metric.to("cpu").records == []


def test_counts_rebuild_the_scores():
    predictions, truths, sizes = hard_cases(4)
    for with_masks in (True, False):
        scores = score(predictions, truths, range(4), sizes, with_masks=with_masks)
        stored = {name: torch.as_tensor(array) for name, array in scores.counts().items()}
        again = DetectionScores.from_counts(**{k: v.numpy() for k, v in stored.items()}, classes=scores.classes)
        assert again.to_dict() == scores.to_dict()
        assert again.table() == scores.table()
    with pytest.raises(ValueError, match="2 classes"):
        DetectionScores.from_counts(**scores.counts(), classes=("a", "b"))


def test_json_and_table():
    predictions, truths, sizes = hard_cases()
    scores = score(predictions, truths, range(12), sizes)
    values = json.loads(json.dumps(scores.to_dict()))
    assert list(values["mask"]) == list(SUMMARY)
    assert values["box"]["ap"] == scores.box.ap
    assert values["classes"][3] == {
        "name": "never there", "support": 0, "box_ap": None, "box_ap50": None, "mask_ap": None, "mask_ap50": None
    }  # fmt: skip
    text = scores.table()
    assert f"{100 * scores.mask.class_ap[0]:.2f}" in text
    assert f"{100 * scores.box.summary()['ar_small']:.2f}" in text
    assert max(map(len, text.splitlines())) <= 110
    assert "objects of 3 classes in 12 images" in scores.baseline
    ap = np.linspace(0, 1, 200)[None, :, None].repeat(10, 0).repeat(4, 2)
    many = scores._replace(
        classes=tuple(map(str, range(200))),
        support=(1,) * 200,
        box=scores.box._replace(precision=ap, recall=np.zeros((10, 200, 4, 3))),
        mask=None,
    )
    assert "worst classes" in many.table()
    assert len(many.table().splitlines()) < 20


def test_nothing_found_and_nothing_there():
    size = (20, 30)
    empty = objects([], [], size, scores=np.zeros(0, dtype=np.float32))
    one = objects([[1.0, 1.0, 9.0, 9.0]], [0], size, scores=[0.5])
    assert score([empty], [one], [1], [size]).headline == 0
    assert math.isnan(score([one], [empty], [1], [size]).headline)
    nothing = CocoMetric(CLASSES, with_masks=True)
    nothing.update([], [], [], [])
    assert math.isnan(nothing.compute().headline)
    assert nothing.compute().to_dict()["mask"]["ap"] is None


def test_what_cannot_be_scored():
    size = (20, 20)
    one = objects([[1.0, 1.0, 9.0, 9.0]], [0], size, scores=[0.5])
    metric = CocoMetric(CLASSES, with_masks=True)
    with pytest.raises(UserError, match="the data have class 4, but with 4 classes"):
        metric.update([one], [one | {"labels": torch.tensor([4])}], [1], [size])
    with pytest.raises(UserError, match="the model finds class -1"):
        metric.update([one | {"labels": torch.tensor([-1])}], [one], [1], [size])
    with pytest.raises(UserError, match="not numbers"):
        metric.update([one | {"scores": torch.tensor([math.nan])}], [one], [1], [size])
    with pytest.raises(UserError, match="the model gives no masks"):
        metric.update([{k: v for k, v in one.items() if k != "masks"}], [one], [1], [size])
    with pytest.raises(UserError, match="at least one class"):
        CocoMetric([])
    with pytest.raises(UserError, match="4 classes need as many category ids, not 1"):
        CocoMetric(CLASSES, category_ids=[3])
    metric.update([one, one], [one, one], [5, 5], [size, size])
    with pytest.raises(UserError, match="two images have the id 5"):
        metric.compute()


def _score_a_share(rank, world_size, file, result):
    torch.set_num_threads(1)  # the threads of the process it was forked from are not there
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world_size)
    predictions, truths, sizes = hard_cases(5)
    metric = CocoMetric(CLASSES, with_masks=True)
    for index in range(rank, 1 if rank else 5):  # the second process has no image
        metric.update([predictions[index]], [truths[index]], [index], [sizes[index]])
    if not rank:
        metric.records = metric.records[::-1]
    values = metric.compute().to_dict()
    (result / f"{rank}.json").write_text(json.dumps(values))
    assert len(metric.records) == (0 if rank else 5)  # each has its own again
    torch.distributed.destroy_process_group()


def test_processes_score_together(tmp_path):
    torch.multiprocessing.start_processes(
        _score_a_share, args=(2, tmp_path / "store", tmp_path), nprocs=2, start_method="fork"
    )
    predictions, truths, sizes = hard_cases(5)
    together = score(predictions, truths, range(5), sizes).to_dict()
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)] == [together, together]
