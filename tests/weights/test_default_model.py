"""The packaged model: used where none is given, named aloud, and missed with one sentence."""

import numpy as np
import pytest
from PIL import Image

import densevit
from densevit.cli.main import main
from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.weights import default_model
from densevit.weights.pretrained import ModelInfo, save_pretrained


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A place for the package's files."""
    monkeypatch.setattr(default_model.resources, "files", lambda name: tmp_path)
    (tmp_path / "assets").mkdir()
    return tmp_path


@pytest.fixture
def packaged(package):
    model = create_model("setr_naive_vit_tiny", num_classes=2, image_size=32, channels=8)
    info = ModelInfo(
        task="segmentation", model=dict(model.config), classes=("a", "b"), palette=((0, 0, 0), (9, 9, 9)),
        mean=(0.0,) * 3, std=(255.0,) * 3, metrics={"mIoU": 0.632}, training={"data": {"name": "camvid"}},
    )  # fmt: skip
    path = save_pretrained(model, package / "saved", info=info)
    return path.rename(package / "assets" / default_model.DEFAULT_MODEL)


def test_predict_without_a_model(packaged, tmp_path, capsys):
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    said = "no --model given; using setr_naive_vit_tiny, trained on camvid (mIoU 63.2 %)"
    assert [line.strip() for line in printed.err.splitlines() if line.startswith("no --model")] == [said]
    assert "1 of 1 pictures segmented" in printed.out
    assert (tmp_path / "out" / "a_labels.png").is_file()
    result = densevit.Predictor.from_pretrained(device="cpu")(tmp_path / "a.png")
    assert result.labels.shape == (40, 50)


def test_an_installation_without_it(package, tmp_path, capsys):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    assert main(["predict", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "no model was given, and this installation brings none along" in err
    assert "--model RUN_OR_FILE" in err
    assert len(err.strip().splitlines()) == 1
    with pytest.raises(UserError, match="no model was given"):
        densevit.Predictor.from_pretrained()
