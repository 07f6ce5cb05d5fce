"""The demo from end to end, two steps long, and the pictures it is given."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densevit.app import demo as demo_module
from densevit.app.demo import run_demo
from densevit.app.demo_pictures import contact_sheet, find_streets
from densevit.cli.main import main
from densevit.errors import UserError
from densevit.training.recipes import get_recipe


def few_scenes(name: str):
    """A recipe on eight scenes, loaded in the main process."""
    experiment = get_recipe(name)
    data = replace(experiment.data, args={**experiment.data.args, "num_images": 8}, num_workers=0)
    return replace(experiment, data=data)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    Image.new("RGB", (64, 48), (90, 90, 90)).save(folder / "street.jpg")
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_module, "get_recipe", few_scenes)
        result = run_demo(folder / "run", num_steps=2, pictures=[str(folder / "street.jpg")], say=said.append)
    return folder / "run", result, said


def test_demo_leaves_what_the_documentation_promises(demo) -> None:
    run, result, said = demo
    for name in ("model.safetensors", "curves.png", "strip.png", "streets.png", "contact_sheet.png", "metrics.csv"):
        assert (run / name).stat().st_size > 0, name
    for name in ("model.safetensors", "curves.png", "strip.png"):
        assert (run / "detection" / name).stat().st_size > 0, name
    street = sorted(path.stem for path in (run / "street").iterdir())
    overlays = sorted(path.name for path in (run / "predictions").glob("*_overlay.png"))
    assert overlays == [f"{stem}_overlay.png" for stem in street]
    assert 0 <= result.segmentation.scores.mean_iou <= 1
    assert 0 <= result.detection.scores.box.ap <= 1
    assert [text[:6] for text in said] == ["1 of 3", "2 of 3", "3 of 3"]


def test_page_shows_pictures_that_exist(demo) -> None:
    run, result, _ = demo
    page = result.page.read_text(encoding="utf-8")
    sources = [part.split('"')[0] for part in page.split('img src="')[1:]]
    assert len(sources) == 5
    assert all((run / source).is_file() for source in sources)
    assert "your pictures" in page


def test_demo_overwrites_nothing(demo) -> None:
    with pytest.raises(UserError, match="not empty"):
        run_demo(demo[0], num_steps=2)


def test_wrong_pictures_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jpg"):
        run_demo(tmp_path / "run", num_steps=2, pictures=[str(tmp_path / "nowhere.jpg")])
    assert not (tmp_path / "run").exists()


def test_without_pictures_there_are_generated_scenes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("DENSEVIT_TEST_DATA", str(tmp_path / "none"))
    files, kind = find_streets([], out=tmp_path / "run")
    assert "generated scenes" in kind
    assert [Image.open(path).size for path in files] == [(480, 360)] * 4


def test_contact_sheet_brings_pictures_to_one_height() -> None:
    sheet = contact_sheet([np.zeros((40, 20, 3), np.uint8), np.full((10, 30, 3), 255, np.uint8)])
    assert sheet.shape == (10, 35, 3)
    assert sheet[:, :5].max() == 0
    assert sheet[:, 5:].min() == 255


def test_waiting_threads_leave_their_cores(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert main(["demo", str(tmp_path / "nowhere.jpg"), "--out", str(tmp_path / "run")]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == "active", "what the user has set stays"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["demo", str(tmp_path / "nowhere.jpg"), "--out", str(tmp_path / "run")]) == 2
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
