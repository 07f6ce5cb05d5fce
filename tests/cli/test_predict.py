"""`densevit predict` from the command line: files, exit codes and sentences."""

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.cli.main import main
from densevit.models.catalog import create_model
from densevit.visualize.palette import default_palette
from densevit.weights.pretrained import ModelInfo, save_pretrained


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("setr_naive_vit_tiny", num_classes=19, image_size=32, channels=16)
    info = ModelInfo(
        task="segmentation",
        model=dict(model.config),
        classes=tuple(map(str, range(19))),
        palette=default_palette(19),
        mean=(0.0,) * 3,
        std=(255.0,) * 3,
    )
    return save_pretrained(model, tmp_path_factory.mktemp("run"), info=info)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos é"
    (folder / "sub").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8)
    for name in ["a.jpg", "a.png", "sub/a.jpg"]:
        Image.fromarray(noise).save(folder / name)
    return folder


def predict(model_file, *args):
    return main(["predict", "--model", str(model_file), "--device", "cpu", *map(str, args)])


def test_folder(model_file, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(model_file, photos, "--out", out, "--confidence", "--probabilities") == 0
    assert "3 of 3 pictures" in capsys.readouterr().out
    kinds = ["confidence.png", "labels.png", "overlay.png", "probabilities.npy"]
    expected = sorted(f"{stem}_{kind}" for stem in ("a", "a_png", "sub/a") for kind in kinds)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.*")) == expected
    assert Image.open(out / "a_labels.png").size == (57, 40)


def test_a_bad_file_is_skipped_and_the_exit_code_says_so(model_file, photos, tmp_path, capsys):
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    assert predict(model_file, photos, "--out", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert "3 of 4 pictures" in out
    assert "cut.jpg" in err
    assert "Traceback" not in err


def test_submission(model_file, photos, tmp_path):
    assert predict(model_file, photos / "a.jpg", "--out", tmp_path / "s", "--submission", "cityscapes") == 0
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["a.png"]
    assert set(np.unique(Image.open(tmp_path / "s" / "a.png"))) <= {*range(7, 34)}


def test_submission_of_a_model_with_other_classes(model_file, photos, tmp_path, capsys):
    out = tmp_path / "s"
    assert predict(model_file, photos / "a.jpg", "--out", out, "--submission", "ade20k") == 2
    err = capsys.readouterr().err
    assert "--submission ade20k needs a model of 150 classes, not 19" in err
    assert len(err.strip().splitlines()) == 1
    assert not list(out.glob("*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing.jpg"], "no pictures match 'nothing.jpg'"),
        (["PHOTOS", "--alpha", "2"], "--alpha is 2.0"),
        (["PHOTOS", "--submission", "ade"], "unknown submission format 'ade'"),
        (["PHOTOS", "--submission", "ade20k"], "would both become a.png"),
        (["PHOTOS", "--device", "tpu"], "device 'tpu'"),
        (["PHOTOS", "--confidance"], "unknown option or setting 'confidance'; did you mean 'confidence'"),
        (["PHOTOS", "--eval.mod=slide"], "did you mean 'eval.mode'"),
        (["PHOTOS", "--train.num_steps=3"], "unknown option or setting 'train.num_steps'"),
        (["PHOTOS", "--eval.mode=slide", "--eval.crop_size=[32,32]"], "leaves gaps between windows"),
        (["PHOTOS", "--out", "PHOTOS/a.jpg"], "is a file; give a folder"),
        (["PHOTOS", "--out", "PHOTOS/a.jpg/sub"], "cannot make the folder"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_two(model_file, photos, tmp_path, capsys, args, message):
    args = [each.replace("PHOTOS", str(photos)) for each in args]
    assert predict(model_file, "--out", tmp_path / "out", *args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_no_model(photos, tmp_path, capsys):
    assert main(["predict", str(photos), "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "no model at" in capsys.readouterr().err


def test_pictures_and_a_video(model_file, photos, tmp_path, capsys):
    pytest.importorskip("av", reason="videos need PyAV: pip install 'densevit[video]'")
    from fractions import Fraction

    from densevit.video_io import VideoReader, VideoWriter

    with VideoWriter(photos / "ride 1.mp4", rate=Fraction(10)) as video:
        for number in range(3):
            video.write(np.full((40, 58, 3), 60 * number, dtype=np.uint8), time=Fraction(number, 10))
    (photos / "text.avi").write_text("no video")
    out = tmp_path / "out"
    assert predict(model_file, photos, "--out", out, "--every", "2") == 1
    printed = capsys.readouterr()
    assert "4 of 5 pictures and videos" in printed.out
    assert "text.avi" in printed.err
    with VideoReader(out / "ride 1_overlay.mp4") as video:
        assert [frame.pixels.shape for frame in video] == [(40, 58, 3)] * 3
    assert predict(model_file, photos / "ride 1.mp4", "--out", out, "--confidence") == 2
    assert "--confidence is for pictures" in capsys.readouterr().err
    assert predict(model_file, photos / "ride 1.mp4", "--out", out, "--every", "0") == 2
    assert "--every is 0" in capsys.readouterr().err


def test_settings_of_the_evaluation(model_file, photos, tmp_path, monkeypatch):
    seen = []
    from densevit.predictor import Predictor

    load = Predictor.from_pretrained
    monkeypatch.setattr(Predictor, "from_pretrained", lambda *a, **b: seen.append(b["inference"]) or load(*a, **b))
    settings = ["--eval.mode=slide", "--eval.crop_size", "[32,32]", "--set", "eval.stride=[20,20]"]
    assert predict(model_file, photos / "a.jpg", "--out", tmp_path / "out", *settings) == 0
    assert (seen[0].mode, seen[0].crop_size, seen[0].stride) == ("slide", (32, 32), (20, 20))
    assert seen[0].flip is False
