"""Detection end to end on generated scenes: both detectors, resuming, scores, refusals, the command line."""

import json
import os
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.cli.main import main
from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.training.callbacks import Stopped
from densevit.training.config import ModelConfig, TrainConfig
from densevit.training.config_detection import DetectionExperiment
from densevit.training.config_detection_data import DetectionDataConfig
from densevit.training.detection import DetectionTask
from densevit.training.evaluate import evaluate
from densevit.training.fit import build_model, fit
from densevit.training.settings import resolve
from densevit.training.tasks import TASKS
from densevit.weights.pretrained import ModelInfo, load_pretrained, save_pretrained

REAL = Path(os.environ.get("DENSEVIT_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
TINY_HLG = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1), "window_size": 4}
SMALL = {
    "retinanet": {"channels": 8, "encoder_args": TINY_HLG, "anchor_scale": 2.0},
    "mask_rcnn": {
        "channels": 8,
        "fc_channels": 16,
        "num_proposals": 30,
        "num_samples": 16,
        "anchor_scale": 2.0,
        "encoder_args": TINY_HLG,
    },
}
SIZE = (48, 64)


def make(kind="mask_rcnn", **changes):
    """A training of seconds; changes such as train={"num_steps": 2}."""
    base = DetectionExperiment()
    parts = {
        "model": ModelConfig(name=f"{kind}_hlg_tiny", args={**SMALL[kind], "drop_path_rate": 0.1}),
        "data": DetectionDataConfig(
            name="scenes_detection",
            args={"image_size": SIZE, "num_images": 3},
            batch_size=2,
            num_workers=0,
            short_sides=(40, 48),
            long_side=64,
        ),
        "optim": replace(base.optim, warmup_steps=2),
        "train": TrainConfig(
            num_steps=4, val_every_steps=2, log_every_steps=1, accelerator="cpu", num_sample_pictures=1
        ),
        "eval": replace(base.eval, short_side=48, long_side=64, max_detections=20),
    }
    parts |= {name: replace(parts[name], **new) for name, new in changes.items()}
    return DetectionExperiment(**parts)


def task_of(experiment):
    data = TASKS["detection"].data(experiment, num_batches=2, seed=0)
    model = build_model(experiment.model, num_classes=len(data.classes), task="detection")
    return DetectionTask.for_data(experiment, model, data, training=True), data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "mask_rcnn"
    fit(make(), run_dir)
    return run_dir


def test_files_of_a_run(run):
    for name in ("config.yaml", "curves.png", "model.safetensors", "scores.json", "pictures/step_000004.png"):
        assert (run / name).stat().st_size > 0, name
    assert not list(run.glob("confusion*"))
    header, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    parts = {"proposal_objectness", "proposal_box", "classification", "box", "mask"}
    assert {f"train/{name}" for name in parts | {"loss", "lr"}} <= set(header)
    assert {"val/AP", "val/box_ap", "val/box_ap50", "val/mask_ap", "val/mask_ap75"} <= set(header)
    assert [row[0] for row in rows] == ["1", "2", "2", "3", "4", "4"]
    losses = {name: float(rows[0][header.index(f"train/{name}")]) for name in parts | {"loss"}}
    assert losses.pop("loss") == pytest.approx(sum(losses.values()), rel=1e-5)


def test_the_exported_model_has_the_scores_it_claims(run):
    model, info = load_pretrained(run)
    assert (info.task, info.classes) == ("detection", ("car", "pedestrian", "sign"))
    assert len(info.palette) == len(info.category_ids) == 3
    assert info.inference["short_side"] == 48
    scores = evaluate(model, info, resolve(config=run / "config.yaml"))
    stored = json.loads((run / "scores.json").read_text())
    assert scores.to_dict() == stored
    assert info.metrics["box_AP"] == pytest.approx(stored["box"]["ap"])
    assert info.metrics["mask_AP50"] == pytest.approx(stored["mask"]["ap50"])
    assert stored["num_images"] == 3


def test_stopped_and_resumed_equals_uninterrupted(run, tmp_path, monkeypatch):
    original, calls = DetectionTask.training_step, []

    def step(self, *args):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "training_step", step)
        with pytest.raises(Stopped):
            fit(make(), tmp_path / "run")
    fit(make(), tmp_path / "run", resume=True)
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (
            torch.load(path / "checkpoints" / name, weights_only=True)["state_dict"] for path in (tmp_path / "run", run)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert (tmp_path / "run" / "metrics.csv").read_text() == (run / "metrics.csv").read_text()


def test_boxes_alone_in_bf16_with_a_moving_average(tmp_path):
    train = {"precision": "bf16", "ema": 0.9, "num_steps": 2, "accumulate": 2, "num_sample_pictures": 0}
    result = fit(make("retinanet", train=train), tmp_path / "run")
    assert result.scores.mask is None
    header, *rows = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    assert "val/mask_ap" not in header
    assert all(np.isfinite(float(row[header.index("train/loss")])) for row in rows[:-1])


def test_images_are_evaluated_at_the_size_asked_for_and_scored_at_their_own():
    experiment = make(eval={"short_side": 24, "long_side": 32})
    task, data = task_of(experiment)
    batch = next(iter(data.val_dataloader()))
    assert batch["image"][0].shape == (3, 24, 32)
    with torch.no_grad():
        found = task.eval().detect(batch)[0]
    assert found["masks"].shape[1:] == SIZE
    task.validation_step(batch, 0)
    assert task.pop_scores().num_images == 1


def test_the_model_is_judged_as_the_experiment_says():
    settings = {"score_threshold": 0.2, "nms_threshold": 0.3, "max_detections": 5, "mask_threshold": 0.6}
    task, _ = task_of(make(eval=settings, train={"ema": 0.9}))
    for model in (task.model, task.used_model):
        assert {name: getattr(model, name) for name in settings} == settings
    assert task.used_model is not task.model


def test_damaged_weights_are_named(tmp_path, monkeypatch):
    step = DetectionTask.training_step

    def poisoned(self, batch, batch_idx):
        with torch.no_grad():
            self.model.fpn.inner_blocks[0][0].weight.fill_(3e38)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionTask, "training_step", poisoned)
    with pytest.raises(UserError, match=r"the loss became nan at step 1 .*output of fpn\.inner_blocks\.0\.0 "):
        fit(make("retinanet", train={"num_steps": 1}), tmp_path / "run")


def test_starts_from_our_own_classifier(tmp_path):
    args = {**TINY_HLG, "drop_path_rate": 0.1}
    classifier = create_model("hlg_tiny", num_classes=5, **args)
    info = ModelInfo(
        task="classification", model=classifier.config, classes=tuple("abcde"), palette=(), mean=(0,) * 3, std=(1,) * 3
    )
    save_pretrained(classifier, tmp_path, info=info)
    for kind, first in (("mask_rcnn", 0), ("retinanet", 1)):
        config = replace(make(kind).model, pretrained=str(tmp_path))
        model = build_model(config, num_classes=3, task="detection")
        for name, value in classifier.stages.state_dict().items():
            assert torch.equal(model.encoder.body.stages.state_dict()[name], value)
        norm = model.encoder.body.norms["3"].weight
        assert torch.equal(norm, classifier.norms["3"].weight)
        assert str(first) in model.encoder.body.norms
        assert "pretrained" not in model.config


@pytest.mark.slow
def test_compiled_training_is_the_same_training(tmp_path, monkeypatch):
    """The captured graph, run by PyTorch itself so that no C++ compiler is needed. Drop path is off."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    losses = []
    for compiled in (False, True):
        train = {"num_steps": 1, "compile": compiled, "num_sample_pictures": 0}
        fit(make("retinanet", model={"args": SMALL["retinanet"]}, train=train), tmp_path / str(compiled))
        losses.append(float((tmp_path / str(compiled) / "metrics.csv").read_text().splitlines()[1].split(",")[1]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture
def coco_folder(tmp_path):
    """Two pictures with a rectangle each, one more without any, in COCO's layout."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (64, 48), (index * 60, 100, 50)).save(root / "images" / split / f"{index}.png")
        corners = [8, 8, 40, 8, 40, 40, 8, 40]
        document = {
            "images": [{"id": 10 + i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(3)],
            "categories": [{"id": 7, "name": "thing"}],
            "annotations": [
                {
                    "id": i,
                    "image_id": 10 + i,
                    "category_id": 7,
                    "bbox": [8, 8, 32, 32],
                    "area": 1024,
                    "iscrowd": 0,
                    "segmentation": [corners],
                }
                for i in range(2)
            ],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def test_coco_files(coco_folder, tmp_path):
    data = {"name": "coco", "root": str(coco_folder), "args": {"masks": True}, "keep_empty": False}
    result = fit(make(data=data, train={"num_steps": 2, "num_sample_pictures": 0}), tmp_path / "run")
    assert (result.scores.support, result.scores.num_images) == ((2,), 3)
    assert load_pretrained(tmp_path / "run")[1].category_ids == (7,)


def test_masks_that_are_not_there(coco_folder, tmp_path):
    data = {"name": "coco", "root": str(coco_folder), "args": {}}
    with pytest.raises(UserError, match=r"mask_rcnn_hlg_tiny learns masks, but data set 'coco' gives none; set data.a"):
        fit(make(data=data), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_nothing_to_score(coco_folder, tmp_path):
    path = coco_folder / "annotations" / "instances_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    data = {"name": "coco", "root": str(coco_folder), "args": {}}
    with pytest.raises(UserError, match="split 'val' of 'coco' has no object to score; see `densevit data check`"):
        fit(make("retinanet", data=data, train={"num_steps": 1}), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.csv").exists()  # told before the training


COMMAND = [
    *("--train.accelerator=cpu", "--data.num_workers=0", "--train.num_steps=2", "--data.batch_size=2"),
    *("--model.args.channels=8", "--model.args.fc_channels=16", "--train.num_sample_pictures=1"),
]
FEWER = ["--data.args.num_images=4"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--model.name=setr_pup_vit_tiny"], "setr_pup_vit_tiny is a model for segmentation, not detection"),
        (["--data.name=scenes"], "data set 'scenes' has no objects"),
        (["--eval.score_threshold=2"], r"eval.score_threshold must be in \[0, 1\], not 2"),
        (["--eval.short_side=900", "--eval.long_side=800"], "eval.long_side 800 must not be below eval.short_side 900"),
        (["--eval.max_detections=0"], "eval.max_detections must be at least 1, not 0"),
        (["--optim.schedule=step"], "optim.schedule=step needs optim.milestones"),
        (["--loss.terms.dice=1"], "unknown setting"),
    ],
)
def test_mistakes(settings, message, tmp_path, capsys):
    args = ["fit", "--recipe", "scenes_detection", "--out", str(tmp_path / "run"), *COMMAND, *settings]
    assert main(args) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)


def test_the_command_line_from_training_to_scores(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert main(["fit", "--recipe", "scenes_detection", "--out", out, *COMMAND, *FEWER]) == 0
    assert "finding nothing has AP 0.00 %" in capsys.readouterr().out
    assert main(["validate", "--model", out, "--device", "cpu", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "run" / "scores.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "data"), [("pennfudan", "pennfudan"), ("coco_overfit", "coco128")])
def test_recipes_on_real_pictures(recipe, data, tmp_path):
    if not (REAL / data).is_dir():
        pytest.skip(f"{data} is not at DENSEVIT_TEST_DATA")
    settings = [setting for setting in COMMAND if recipe == "pennfudan" or "fc_channels" not in setting]
    settings += [f"--data.root={REAL / data}", "--eval.short_side=64"]
    assert main(["fit", "--recipe", recipe, "--out", str(tmp_path / "run"), *settings]) == 0
