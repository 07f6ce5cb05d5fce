"""`densevit data check` from the command line: output, exit codes, options."""

import json

import numpy as np
import pytest
from PIL import Image

from densevit.cli.data import parse_options
from densevit.cli.main import main
from densevit.errors import UserError


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "with space"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    (root / "classes.txt").write_text("road\ncar\n")
    for index in range(4):
        Image.new("RGB", (6, 4)).save(root / "images" / f"{index}.jpg")
        Image.fromarray(np.full((4, 6), index % 2, dtype=np.uint8)).save(root / "masks" / f"{index}.png")
    return root


def check(root, *args):
    return main(["data", "check", "--data", "folder", "--root", str(root), "--set", "val_ratio=0.5", *args])


def test_good_data(root, capsys):
    assert check(root) == 0
    out = capsys.readouterr().out
    assert "2 pairs, 2 read" in out
    assert "nothing stands in the way" in out


def test_bad_data_gives_exit_code_1(root, capsys):
    for index in range(4):
        Image.fromarray(np.full((4, 6), 200, dtype=np.uint8)).save(root / "masks" / f"{index}.png")
    assert check(root, "--split", "val", "--format", "json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["num_pairs"] == 2
    assert report["ids_outside"]["200"]["pixels"] == 48
    assert check(root) == 1
    assert "ids 200 are outside" in capsys.readouterr().out


def test_images_without_mask_are_counted_not_fatal(root, capsys):
    for path in (root / "masks").glob("[01].png"):
        path.unlink()
    assert main(["data", "check", "--data", "folder", "--root", str(root), "--split", "all"]) == 1
    assert "2 images have no mask" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "foldr"], "did you mean 'folder'"),
        (["--data", "folder", "--root", "/nowhere"], "/nowhere is not a folder"),
        (["--data", "scenes", "--set", "num_imags=3"], "did you mean 'num_images'"),
        (["--data", "scenes", "--set", "num_images"], "not of the form KEY=VALUE"),
        (["--data", "scenes_classification"], "does not read the samples of 'scenes_classification'"),
    ],
)
def test_mistakes_end_in_one_sentence(args, message, capsys):
    assert main(["data", "check", *args]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_options_are_typed():
    assert parse_options(["a=3", "b=[1, 2]", "c=x", "d=true", "e=a=b"]) == {
        "a": 3, "b": [1, 2], "c": "x", "d": True, "e": "a=b",
    }  # fmt: skip
    with pytest.raises(UserError, match="not valid YAML"):
        parse_options(["a=[1"])


def test_list(capsys):
    assert main(["data", "list"]) == 0
    assert "scenes" in capsys.readouterr().out.split()


def test_stats(root, capsys):
    for index in range(4):
        Image.new("RGB", (6, 4), (10 * index, 7, 0)).save(root / "images" / f"{index}.png")
        (root / "images" / f"{index}.jpg").unlink()
    args = ["data", "stats", "--data", "folder", "--root", str(root), "--split", "all"]
    assert main(args) == 0
    assert "mean: [15, 7, 0]" in capsys.readouterr().out
    assert main([*args, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["std"] == pytest.approx([125**0.5, 0, 0])


def test_classification_data(tmp_path, write_class_folders, capsys):
    write_class_folders(tmp_path / "train", ["cat", "dog"], 2, size=(6, 4))
    write_class_folders(tmp_path / "val", ["cat"], 1, size=(6, 4))
    command = ["data", "check", "--data", "image_folder", "--root", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "4 images, 4 read" in out
    assert "nothing stands in the way" in out
    (tmp_path / "train" / "cat" / "0.png").write_text("text")
    (tmp_path / "train" / "owl").mkdir()
    assert main([*command, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [row["images"] for row in report["histogram"]] == [1, 2, 0]
    assert report["unreadable"][0]["id"] == "train/cat/0.png"
    assert any("1 classes have no image: owl" in problem for problem in report["problems"])
    assert (report["smallest"], report["num_images"]) == ([4, 6], 4)


def test_shards(tmp_path, write_shards, capsys):
    write_shards(tmp_path, num_shards=2, samples_each=3)
    command = ["--data", "shards", "--root", str(tmp_path)]
    assert main(["data", "check", *command]) == 0
    assert "6 images, 6 read" in capsys.readouterr().out
    assert main(["data", "stats", *command]) == 0
    assert "mean: [2.5, 1, 7]" in capsys.readouterr().out
    (tmp_path / "train-002.tar").write_bytes((tmp_path / "train-000.tar").read_bytes())
    (tmp_path / "train-001.tar").write_bytes((tmp_path / "train-001.tar").read_bytes()[:2500])
    assert main(["data", "check", *command, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["num_read"] == 6  # of the first shard twice, none of the damaged one
    assert report["doubled_ids"] == ["s000", "s001", "s002"]
    assert "train-001.tar is cut short" in report["unreadable"][0]["reason"]


def test_detection_data(tmp_path, write_coco, capsys):
    whole = {"category_id": 2, "bbox": [0, 0, 40, 30], "segmentation": [[0, 0, 40, 0, 40, 30, 0, 30]]}
    crowd = {"category_id": 7, "bbox": [5, 5, 20, 20], "iscrowd": 1, "segmentation": [[5, 5, 25, 5, 25, 25]]}
    write_coco(tmp_path, {"a.png": [whole, crowd], "b.png": []})
    command = ["--data", "coco", "--root", str(tmp_path)]
    assert main(["data", "check", *command]) == 0
    out = capsys.readouterr().out
    assert "2 images, 2 read" in out
    assert "objects: 1 with masks, 0 small, 1 medium, 0 large; crowd regions: 1; images without object: 1" in out
    assert "1 of 2 classes have no object: dog" in out
    assert main(["data", "stats", *command]) == 0
    assert "mean: [12" in capsys.readouterr().out
    write_coco(tmp_path, {"a.png": [whole, whole | {"bbox": [70, 0, 5, 5]}, whole | {"category_id": 1}]})
    assert main(["data", "check", *command, "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [row["boxes"] for row in report["histogram"]] == [1, 0]
    assert [fault["kind"] for fault in report["faults"]] == ["boxes outside their image", "unknown categories"]
    assert main(["data", "check", *command, "--set", "strict=true"]) == 2
    assert "and 1 more faults" in capsys.readouterr().err


def test_yolo_data(tmp_path, capsys):
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "train" / "a.png")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    command = ["data", "check", "--data", "yolo", "--root", str(tmp_path)]
    assert main(command) == 0
    assert "objects: 1, 1 small" in capsys.readouterr().out
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n2 0.5 0.5 0.5 0.5\n")
    assert main(command) == 1
    assert "a.txt, line 2: class 2, but with 2 classes" in capsys.readouterr().out
