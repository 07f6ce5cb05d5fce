"""`densevit predict` with a detector: pictures, json, submission, exit codes and sentences."""

import json

import numpy as np
import pytest
from PIL import Image

from densevit.cli.main import main
from densevit.models.catalog import create_model
from densevit.weights.pretrained import ModelInfo, save_pretrained


@pytest.fixture
def model_file(colour_detector, tmp_path, monkeypatch):
    """A file with the info of a detector; what is loaded from it finds colours."""
    import torch

    import densevit.object_detector

    model, info = colour_detector()
    path = save_pretrained(torch.nn.Linear(1, 1), tmp_path / "run", info=info)
    monkeypatch.setattr(densevit.object_detector, "load_pretrained", lambda source: (model, info))
    return path


@pytest.fixture
def photos(tmp_path, colour_picture):
    folder = tmp_path / "my photos é"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(colour_picture).save(folder / "12.png")
    Image.fromarray(colour_picture[:, :40]).save(folder / "sub" / "13.png")
    Image.fromarray(np.zeros_like(colour_picture)).save(folder / "empty.png")
    return folder


def predict(model_file, *args):
    return main(["predict", "--model", str(model_file), "--device", "cpu", *map(str, args)])


def test_folder(model_file, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(model_file, photos, "--out", out) == 0
    assert "3 of 3 pictures searched, 3 objects (2 red ball, 1 car)" in capsys.readouterr().out
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert files == ["12_detections.png", "detections.json", "empty_detections.png", "sub/13_detections.png"]
    assert Image.open(out / "12_detections.png").size == (90, 60)
    document = json.loads((out / "detections.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in document["images"]] == [
        str(photos / name) for name in ("12.png", "empty.png", "sub/13.png")
    ]
    assert document["categories"][1] == {"id": 40, "name": "tree"}
    first, second, third = document["annotations"]
    assert (first["name"], first["category_id"], first["image_id"]) == ("red ball", 2, 1)
    assert (second["name"], second["category_id"], second["image_id"]) == ("car", 7, 1)
    assert (third["name"], third["image_id"]) == ("red ball", 3)
    np.testing.assert_allclose(first["bbox"], [20, 10, 30, 30], atol=1)
    assert first["score"] == pytest.approx(0.902, abs=2e-3)


def test_coco_tools_read_the_json(model_file, photos, tmp_path, capsys):
    coco = pytest.importorskip("pycocotools.coco")
    assert predict(model_file, photos, "--out", tmp_path / "out") == 0
    read = coco.COCO(str(tmp_path / "out" / "detections.json"))
    annotation = read.anns[1]
    mask = read.annToMask(annotation)
    assert mask.shape == (60, 90)
    assert mask.sum() == annotation["area"]
    assert mask[15:35, 25:45].all()


def test_thresholds_classes_and_settings(model_file, photos, tmp_path, capsys):
    picture, out = photos / "12.png", tmp_path / "out"
    for options, found in [
        (["--score-threshold", "0.7"], "1 object (1 red ball)"),
        (["--classes", "car, tree"], "1 object (1 car)"),
        (["--eval.score_threshold=0.8"], "1 object (1 red ball)"),
        (["--eval.short_side=40", "--alpha", "0.2"], "2 objects (1 red ball, 1 car)"),
        (["--score-threshold", "1"], "0 objects:"),
    ]:
        assert predict(model_file, picture, "--out", out, *options) == 0
        assert found in capsys.readouterr().out


def test_bad_files_and_videos_are_skipped(model_file, photos, tmp_path, capsys):
    (photos / "cut.png").write_bytes((photos / "12.png").read_bytes()[:100])
    (photos / "ride.mp4").write_bytes(b"")
    assert predict(model_file, photos, "--out", tmp_path / "out") == 1
    out, err = capsys.readouterr()
    assert "3 of 5 pictures" in out
    assert "cut.png" in err
    assert "ride.mp4 is a video; a detector takes pictures" in err
    assert "Traceback" not in err


def test_submission(model_file, photos, tmp_path, capsys):
    out = tmp_path / "s"
    (photos / "empty.png").unlink()
    assert predict(model_file, photos, "--out", out, "--submission", "coco") == 0
    assert [path.name for path in out.iterdir()] == ["coco_results.json"]
    entries = json.loads((out / "coco_results.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in entries] == [(12, 2), (12, 7), (13, 2)]
    assert set(entries[0]) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    faint = photos / "faint"
    faint.mkdir()
    Image.fromarray((np.asarray(Image.open(photos / "12.png")) * 0.5).astype(np.uint8)).save(faint / "7.png")
    assert predict(model_file, faint, "--out", out, "--submission", "coco") == 0  # scores below a half, too
    assert len(json.loads((out / "coco_results.json").read_text())) == 1


def test_submission_with_ids_from_a_json(model_file, photos, tmp_path, capsys):
    info = tmp_path / "image_info.json"
    info.write_text(json.dumps({"images": [{"id": 500 + n, "file_name": f"{n}.png"} for n in (12, 13)]}))
    options = ["--out", tmp_path / "s", "--submission", "coco", "--annotations", info]
    assert predict(model_file, photos / "12.png", photos / "sub", *options) == 0
    entries = json.loads((tmp_path / "s" / "coco_results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {512, 513}
    assert predict(model_file, photos, *options) == 2
    assert "empty.png is not among the images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--confidence"], "--confidence is for segmentation; RUN is a model for detection, which takes --alpha, "),
        (["--every", "2"], "--every is for segmentation"),
        (["--top", "3"], "--top is for classification"),
        (["--submission", "cityscapes"], "--submission cityscapes is for segmentation; RUN is a model for detection"),
        (["--submission", "coc"], "unknown submission format 'coc'; did you mean 'coco'"),
        (["--submission", "coco"], "empty.png is not named by its image id; give the ids with --annotations FILE"),
        (["--annotations", "a.json"], "--annotations gives image ids to --submission coco"),
        (
            ["--submission", "coco", "--annotations", "none.json"],
            "cannot open annotations file none.json: No such file or directory",
        ),
        (["--score-threshold", "1.5"], "--score-threshold is 1.5; it must lie in 0 .. 1"),
        (["--alpha", "-1"], "--alpha is -1.0"),
        (["--classes", "car,tre"], "unknown class 'tre'; did you mean 'tree'"),
        (["--eval.short_sid=8"], "did you mean 'eval.short_side'"),
        (["--eval.mode=slide"], "unknown option or setting 'eval.mode'"),
        (["--eval.nms_threshold=2"], "eval.nms_threshold must be in [0, 1], not 2.0"),
        (["--score-treshold", "0.5"], "did you mean 'score-threshold'"),
        (["--dtype", "float23"], "did you mean 'float32'"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_two(model_file, photos, tmp_path, capsys, args, message):
    assert predict(model_file, photos, "--out", tmp_path / "out", *args) == 2
    err = capsys.readouterr().err
    assert message.replace("RUN", str(model_file)) in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--score-threshold", "0.5"], "--score-threshold is for detection; RUN is a model for segmentation, which"),
        (["--classes", "a"], "--classes is for detection"),
        (["--submission", "coco"], "--submission coco is for detection; RUN is a model for segmentation, which takes"),
    ],
)
def test_options_of_detection_do_not_fit_a_segmenter(photos, tmp_path, capsys, args, message):
    model = create_model("setr_naive_vit_tiny", num_classes=1, image_size=32, channels=8)
    info = ModelInfo(
        task="segmentation", model=dict(model.config), classes=("a",), palette=((0, 0, 0),), mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )  # fmt: skip
    path = save_pretrained(model, tmp_path / "run", info=info)
    assert predict(path, photos, "--out", tmp_path / "out", *args) == 2
    err = capsys.readouterr().err
    assert message.replace("RUN", str(path)) in err
    assert len(err.strip().splitlines()) == 1
