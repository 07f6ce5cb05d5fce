"""Detecting in single pictures: pixels of the picture itself, thresholds, classes, kinds of pictures, refusals."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import densevit
from densevit.errors import UserError
from densevit.evaluation.rle import decode_masks
from densevit.inference.detection_settings import DetectionConfig
from densevit.inference.settings import InferenceConfig
from densevit.models.catalog import create_model
from densevit.object_detector import ObjectDetector
from densevit.weights.pretrained import ModelInfo, save_pretrained

RED, BLUE = [20, 10, 50, 40], [60, 45, 80, 55]


@pytest.fixture
def detector(colour_detector):
    return ObjectDetector(*colour_detector(), device="cpu")


def test_boxes_and_masks_are_in_pixels_of_the_picture(detector, colour_picture):
    result = detector(colour_picture)
    np.testing.assert_allclose(result.boxes, [RED, BLUE], atol=1)
    assert result.names == ("red ball", "car")
    assert result.labels.tolist() == [0, 2]
    np.testing.assert_allclose(result.scores, [230 / 255, 140 / 255], atol=1e-3)
    assert result.masks.shape == (2, 60, 90)
    assert result.masks.dtype == bool
    inside = np.zeros((60, 90), dtype=bool)
    inside[12:38, 22:48] = True
    assert result.masks[0][inside].all()
    assert result.masks[0].sum() == pytest.approx(30 * 30, rel=0.1)
    assert result.counts() == {"red ball": 1, "car": 1}
    assert len(result) == 2


def test_the_size_at_which_it_looks(detector, colour_picture, monkeypatch):
    seen = []
    search = type(detector.model).search
    monkeypatch.setattr(
        type(detector.model), "search", lambda self, image: seen.append(tuple(image.shape)) or search(self, image)
    )
    detector(colour_picture)
    detector(np.pad(colour_picture, ((0, 0), (0, 450), (0, 0))))  # 60 x 540: the long side decides
    own = ObjectDetector(detector.model, detector.info, device="cpu", inference=DetectionConfig(short_side=30))
    own(colour_picture)
    assert seen == [(3, 120, 180), (3, 44, 400), (3, 30, 45)]


def test_thresholds_and_classes(detector, colour_picture):
    assert detector(colour_picture, score_threshold=0.6).names == ("red ball",)
    faint = (colour_picture * 0.6).astype(np.uint8)  # the blue one is at 84 / 255
    assert detector(faint).names == ("red ball",)
    assert detector(faint, score_threshold=None).names == ("red ball", "car")
    assert detector(colour_picture, classes=["car", "tree"]).names == ("car",)
    assert detector(colour_picture, classes="car").names == ("car",)
    assert len(detector(colour_picture, score_threshold=1.0)) == 0
    with pytest.raises(UserError, match=r"unknown class 'cat'; did you mean 'car'"):
        detector(colour_picture, classes=["cat"])
    with pytest.raises(UserError, match=r"score_threshold is 1\.2"):
        detector(colour_picture, score_threshold=1.2)


def test_one_picture_in_every_form_gives_one_answer(detector, colour_picture, tmp_path):
    Image.fromarray(colour_picture).save(tmp_path / "a.png")
    forms = [
        tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(colour_picture), colour_picture / 255,
        torch.tensor(colour_picture).permute(2, 0, 1), colour_picture.astype(np.uint16) * 257,
    ]  # fmt: skip
    results = detector(forms)
    assert len(results) == len(forms)
    for result in results:
        np.testing.assert_allclose(result.boxes, [RED, BLUE], atol=1)
        assert result.image.shape == (60, 90, 3)
    assert detector([]) == []


def test_mistakes(detector, tmp_path):
    with pytest.raises(UserError, match="nothing"):
        detector(tmp_path / "nothing.jpg")
    with pytest.raises(UserError, match="does not fit a model of 3 channels"):
        detector(np.zeros((5, 6, 7), dtype=np.uint8))
    for threshold in ("a", 1.5, float("nan")):
        with pytest.raises(UserError, match="it must be a number in 0"):
            detector(np.zeros((5, 6, 3), dtype=np.uint8), score_threshold=threshold)


def test_a_picture_without_objects(detector):
    result = detector(np.zeros((40, 30, 3), dtype=np.uint8))
    assert result.boxes.shape == (0, 4)
    assert result.masks.shape == (0, 40, 30)
    assert result.to_dict() == {"image_size": [40, 30], "objects": []}
    assert (np.asarray(result.draw()) == 0).all()


def test_json(detector, colour_picture):
    result = detector(colour_picture)
    values = json.loads(result.to_json())
    assert values["image_size"] == [60, 90]
    first = values["objects"][0]
    assert (first["name"], first["label"]) == ("red ball", 0)
    assert np.float32(first["score"]) == result.scores[0]
    assert first["area"] == result.masks[0].sum()
    code = first["segmentation"]
    assert (decode_masks([code["counts"].encode()], size=tuple(code["size"]))[0].numpy() == result.masks[0]).all()


def test_boxes_alone(colour_detector, colour_picture):
    result = ObjectDetector(*colour_detector(with_masks=False), device="cpu")(colour_picture)
    assert result.masks is None
    assert "segmentation" not in result.to_dict()["objects"][0]
    assert np.asarray(result.draw())[30, 30].tolist() == [230, 10, 10]


def test_drawing(detector, colour_picture, tmp_path):
    result = detector(colour_picture)
    assert result.draw().size == (90, 60)
    (path,) = result.save(tmp_path / "new", "street", alpha=1)
    assert path == tmp_path / "new" / "street_detections.png"
    assert np.asarray(Image.open(path))[25, 35].tolist() == [200, 0, 0]
    assert (result.image == colour_picture).all()


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_a_real_detector_from_its_file(name, tmp_path):
    torch.manual_seed(0)
    encoder = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1), "window_size": 4}
    args = {"channels": 8, "encoder_args": encoder}
    args |= {"fc_channels": 16, "num_proposals": 30} if name == "mask_rcnn" else {}
    model = create_model(f"{name}_hlg_tiny", num_classes=2, **args)
    info = ModelInfo(
        task="detection", model=dict(model.config), classes=("a", "b"), palette=((255, 0, 0), (0, 255, 0)),
        mean=(120.0,) * 3, std=(60.0,) * 3, inference={"short_side": 64, "long_side": 100},
    )  # fmt: skip
    save_pretrained(model, tmp_path, info=info)
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for dtype in ("float32", "bfloat16"):
        for kind in (densevit.ObjectDetector, densevit.Predictor):
            detector = kind.from_pretrained(tmp_path, device="cpu", dtype=dtype)
            assert isinstance(detector, ObjectDetector)
            with pytest.raises(UserError, match="inference is for segmentation"):
                densevit.Predictor.from_pretrained(tmp_path, inference=InferenceConfig())
        result = detector(picture, score_threshold=0)
        assert 0 < len(result) <= 100
        assert (np.diff(result.scores) <= 0).all()
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [70, 50, 70, 50]).all()
        assert (result.masks is None) == (name == "retinanet")
        assert result.boxes.dtype == result.scores.dtype == np.float32


def test_models_of_other_tasks(colour_detector, tmp_path):
    _, info = colour_detector()
    model = create_model("setr_naive_vit_tiny", num_classes=3, image_size=32, channels=8)
    other = ModelInfo(
        task="segmentation", model=dict(model.config), classes=info.classes, palette=info.palette, mean=info.mean,
        std=info.std,
    )  # fmt: skip
    save_pretrained(model, tmp_path, info=other)
    with pytest.raises(UserError, match=r"is a model for segmentation; use densevit\.Predictor"):
        ObjectDetector.from_pretrained(tmp_path)
