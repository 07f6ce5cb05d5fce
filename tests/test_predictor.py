"""The predictor against the plain forward pass, whole and sliding, and what it writes."""

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.errors import UserError
from densevit.inference.settings import InferenceConfig
from densevit.models.catalog import create_model
from densevit.predictor import Predictor
from densevit.visualize.palette import default_palette
from densevit.weights.pretrained import ModelInfo, save_pretrained

CLASSES = ("sky", "road", "tree", "car", "bus")
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def make_info(model, inference):
    return ModelInfo(
        task="segmentation",
        model=dict(model.config),
        classes=CLASSES,
        palette=default_palette(len(CLASSES)),
        mean=MEAN,
        std=STD,
        inference=inference,
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("setr_pup_vit_tiny", num_classes=len(CLASSES), image_size=64, channels=16).eval()


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (50, 77, 3), dtype=np.uint8)


@pytest.fixture
def run_folder(model, tmp_path):
    folder = tmp_path / "mein Lauf é"
    save_pretrained(model, folder, info=make_info(model, {"mode": "whole"}))
    return folder


def normalized(picture):
    return torch.from_numpy((picture.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)).permute(2, 0, 1)[None]


def test_whole_image_equals_the_forward_pass(run_folder, model, picture):
    result = Predictor.from_pretrained(run_folder, device="cpu")(picture)
    with torch.no_grad():
        probs = model(normalized(picture)).softmax(dim=1)[0]
    np.testing.assert_allclose(result.probabilities, probs.numpy(), atol=1e-5)
    assert result.labels.shape == (50, 77)
    assert (result.labels == probs.argmax(0).numpy()).mean() > 0.999
    np.testing.assert_allclose(result.confidence, result.probabilities.max(axis=0))
    assert result.classes == CLASSES
    assert (result.image == picture).all()


@pytest.mark.parametrize(
    "inference",
    [
        InferenceConfig(),
        InferenceConfig(resize=(96, 64)),
        InferenceConfig(mode="slide", crop_size=(32, 48), stride=(20, 32)),
        InferenceConfig(scales=(0.5, 1.0), flip=True),
    ],
    ids=["whole", "resized", "slide", "multi-scale"],
)
def test_labels_alone_are_the_same(model, picture, inference):
    predictor = Predictor(model, make_info(model, {}), device="cpu", inference=inference)
    full = predictor(picture)
    lean = predictor(picture, probabilities=False, confidence=False)
    assert lean.probabilities is None
    assert lean.confidence is None
    assert (lean.labels == full.labels).mean() > 0.999  # but for ties after rounding
    torch.testing.assert_close(torch.from_numpy(full.probabilities).sum(0), torch.ones(50, 77))


def test_the_stored_setting_is_used(model, tmp_path, picture):
    stored = {"mode": "slide", "crop_size": [32, 48], "stride": [20, 32]}
    save_pretrained(model, tmp_path, info=make_info(model, stored))
    predictor = Predictor.from_pretrained(tmp_path / "model.safetensors", device="cpu")
    assert predictor.inference.mode == "slide"
    other = Predictor.from_pretrained(tmp_path, device="cpu", inference=InferenceConfig())
    assert not np.allclose(predictor(picture).probabilities, other(picture).probabilities)


def test_every_kind_of_input_gives_the_same(run_folder, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "street.png")
    predictor = Predictor.from_pretrained(run_folder, device="cpu")
    expected = predictor(picture).labels
    inputs = [
        tmp_path / "street.png",
        str(tmp_path / "street.png"),
        Image.fromarray(picture),
        torch.from_numpy(picture).permute(2, 0, 1),
    ]
    for each in inputs:
        assert (predictor(each, probabilities=False, confidence=False).labels == expected).mean() > 0.999


def test_bfloat16(run_folder, picture):
    exact = Predictor.from_pretrained(run_folder, device="cpu")(picture)
    fast = Predictor.from_pretrained(run_folder, device="cpu", dtype="bfloat16")(picture)
    assert fast.probabilities.dtype == np.float32
    np.testing.assert_allclose(fast.probabilities, exact.probabilities, atol=0.05)


def test_save_and_read_back(run_folder, picture, tmp_path):
    result = Predictor.from_pretrained(run_folder, device="cpu")(picture)
    files = result.save(tmp_path / "out", "a")
    assert [file.name for file in files] == ["a_labels.png", "a_overlay.png", "a_probabilities.npy", "a_confidence.png"]
    labels, shown = Image.open(files[0]), Image.open(files[1])
    assert (np.asarray(labels) == result.labels).all()
    assert tuple(labels.getpalette()[3:6]) == result.palette[1]
    assert (np.asarray(shown) == result.overlay()).all()
    np.testing.assert_allclose(np.load(files[2]), result.probabilities, atol=1e-3)
    assert sum(result.shares().values()) == pytest.approx(1)


def test_mistakes_are_named(run_folder, model, tmp_path):
    with pytest.raises(UserError, match="no model at"):
        Predictor.from_pretrained(tmp_path / "nothing")
    with pytest.raises(UserError, match="not available"):
        Predictor.from_pretrained(run_folder, device="cuda:77")
    with pytest.raises(UserError, match="does not fit a model of 3 channels"):
        Predictor.from_pretrained(run_folder, device="cpu")(np.zeros((5, 6, 9)))


def test_bands_from_files(tmp_path):
    """A model of six bands reads .npy, either way round, and TIFF, as it reads them for training."""
    small = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2}
    model = create_model(
        "setr_naive_vit_tiny", num_classes=5, image_size=32, channels=8, in_channels=6, encoder_args=small
    )
    info = ModelInfo(
        task="segmentation",
        model=dict(model.config),
        classes=CLASSES,
        palette=default_palette(len(CLASSES)),
        mean=(40.0, 50.0, 60.0, 0.0, 0.0, 0.0),
        std=(20.0, 30.0, 40.0, 100.0, 100.0, 100.0),
    )
    predictor = Predictor(model, info, device="cpu")
    bands = np.random.default_rng(0).normal(50, 30, (30, 44, 6)).astype(np.float32)  # below 0 and above 1
    mean, std = np.float32(info.mean), np.float32(info.std)
    with torch.no_grad():
        expected = model(torch.from_numpy((bands - mean) / std).permute(2, 0, 1)[None]).softmax(dim=1)[0].numpy()
    np.save(tmp_path / "last.npy", bands)
    np.save(tmp_path / "first.npy", bands.transpose(2, 0, 1))
    for source in (tmp_path / "last.npy", tmp_path / "first.npy", bands):
        result = predictor(source)
        np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)
        assert result.image.shape == (30, 44, 3)
    Image.new("RGB", (44, 30)).save(tmp_path / "picture.png")
    with pytest.raises(UserError, match="6 are asked for"):
        predictor(tmp_path / "picture.png")
    tifffile = pytest.importorskip("tifffile", reason="multi-band TIFF needs the extra tiff")
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack")
    np.testing.assert_allclose(predictor(tmp_path / "bands.tif").probabilities, expected, atol=1e-5)
