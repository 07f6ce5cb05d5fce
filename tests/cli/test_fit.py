"""`densevit fit` and `densevit validate` as a user runs them, in a folder with spaces and accents."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from densevit.cli.main import main

SETTINGS = """
task: segmentation
model:
  name: setr_naive_vit_tiny
  args:
    image_size: [32, 48]
    channels: 16
    drop_rate: 0.1
    encoder_args: {patch_size: 8, depth: 1, embed_dim: 24, num_heads: 2}
data: {name: scenes, args: {image_size: [32, 48], num_images: 4}, batch_size: 2, num_workers: 0, crop_size: [32, 48]}
train: {num_steps: 3, val_every_steps: 2, log_every_steps: 1, accelerator: cpu, num_sample_pictures: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my trainings é")
    (folder / "small one.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture(scope="module")
def run_dir(folder):
    """A finished run; the command's own default for --out is runs/CONFIG."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["fit", "--config", "small one.yaml"]) == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "small one"


def test_a_run_and_what_is_said_about_a_second_one(run_dir, folder, capsys):
    assert (run_dir / "model.safetensors").is_file()
    assert main(["fit", "--config", str(folder / "small one.yaml"), "--out", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert "already holds a run" in error
    assert f"--resume {run_dir}" in error


def test_resume_for_longer(run_dir, folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["fit", "--config", str(folder / "small one.yaml"), "--out", str(out), "--train.num_steps=2"]) == 0
    assert main(["fit", "--resume", str(out), "--train.num_steps", "4"]) == 0
    assert "best at step" in capsys.readouterr().out
    assert (out / "metrics.csv").read_text().splitlines()[-1].startswith("4,")


def test_validate_agrees_with_the_training(run_dir, capsys):
    assert main(["validate", "--model", str(run_dir), "--format", "json", "--device", "cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    scores = json.loads((run_dir / "scores.json").read_text())
    assert printed == scores == json.loads((run_dir / "validation" / "scores.json").read_text())
    for name in ("confusion.csv", "confusion.png"):
        assert (run_dir / "validation" / name).is_file()


def test_validate_otherwise(run_dir, tmp_path, capsys):
    slide = ["--eval.mode=slide", "--eval.crop_size=[24,24]", "--eval.stride=[16,16]", "--set", "eval.flip=true"]
    file = str(run_dir / "model.safetensors")
    assert main(["validate", "--model", file, "--device", "cpu", "--out", str(tmp_path / "scores"), *slide]) == 0
    assert "mIoU" in capsys.readouterr().out
    assert (tmp_path / "scores" / "scores.json").is_file()


def test_validate_on_data_of_other_classes(run_dir, capsys, tmp_path):
    from PIL import Image

    for kind in ("images", "masks"):
        (tmp_path / kind / "val").mkdir(parents=True)
        Image.new("RGB" if kind == "images" else "L", (48, 32)).save(tmp_path / kind / "val" / "a.png")
        (tmp_path / kind / "train").mkdir()
        Image.new("RGB" if kind == "images" else "L", (48, 32)).save(tmp_path / kind / "train" / "b.png")
    (tmp_path / "classes.json").write_text('["void", "thing"]')
    arguments = ["--data.name=folder", f"--data.root={tmp_path}"]
    assert main(["validate", "--model", str(run_dir), "--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err
    assert "the model knows 9 classes but data set 'folder' has 2" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "change", ["train.num_steps=3", "optim.lr=1", "loss.auxiliary_weight=0", "model.name=hlg_tiny"]
)
def test_validate_refuses_what_changes_nothing(run_dir, capsys, change):
    for arguments in ([f"--{change}"], ["--set", change], [f"--{change.partition('=')[0]}", change.partition("=")[2]]):
        assert main(["validate", "--model", str(run_dir), "--device", "cpu", *arguments]) == 2
        err = capsys.readouterr().err
        key = change.partition("=")[0]
        assert f"{key} changes nothing in a validation, which uses data.*, eval.* and train.precision" in err
        assert len(err.strip().splitlines()) == 1


def test_validate_refuses_what_it_does_not_know(run_dir, capsys):
    assert main(["validate", "--model", str(run_dir), "--eval.mod=slide"]) == 2
    assert "did you mean 'eval.mode'" in capsys.readouterr().err
    assert main(["validate", "--model", str(run_dir), "--device", "cudaa"]) == 2
    assert "unknown device 'cudaa'" in capsys.readouterr().err


def test_ctrl_c_reaches_the_whole_process_group(folder, tmp_path):
    """The workers ignore it, the main process saves, and the resumed run ends as an uninterrupted one."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [sys.executable, "-m", "densevit", "fit"]
    config = ["--config", str(folder / "small one.yaml"), "--train.num_steps=40", "--train.val_every_steps=50"]
    config += ["--data.num_workers=2"]
    assert main(["fit", *config, "--out", str(whole)]) == 0
    process = subprocess.Popen(
        [*command, *config, "--out", str(parts)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if (parts / "metrics.csv").is_file() and (parts / "metrics.csv").read_text().count("\n") > 3:
            os.killpg(process.pid, signal.SIGINT)
            break
        time.sleep(0.02)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "stopped at step" in error
    assert f"continue with: densevit fit --resume {parts}\n" in error
    assert "Traceback" not in error
    step = torch.load(parts / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 3 <= step < 40
    assert main(["fit", "--resume", str(parts)]) == 0
    assert (parts / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    ours, theirs = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (parts, whole))
    assert all(torch.equal(value, theirs["state_dict"][key]) for key, value in ours["state_dict"].items())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_wrong_mask_is_one_sentence(folder, tmp_path, capsys, num_workers):
    from PIL import Image

    for kind, mode in (("images", "RGB"), ("masks", "L")):
        for split in ("train", "val"):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.new(mode, (48, 32), 200 if (kind, split) == ("masks", "train") else 0).save(
                tmp_path / kind / split / "one.png"
            )
    (tmp_path / "classes.json").write_text('["void", "thing"]')
    arguments = ["--data.name=folder", f"--data.root={tmp_path}", f"--data.num_workers={num_workers}"]
    config = str(folder / "small one.yaml")
    assert main(["fit", "--config", config, "--out", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("densevit fit: mask ")
    assert "has label 200 but there are 2 classes" in error
    assert error.count("\n") == 1
