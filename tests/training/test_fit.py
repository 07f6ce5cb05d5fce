"""Training end to end: the files of a run, stopping and resuming without a seam, refusals."""

import json
import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from densevit.errors import UserError
from densevit.training.callbacks import Stopped
from densevit.training.checkpoints import AtomicCheckpointIO
from densevit.training.fit import fit
from densevit.training.segmentation import SegmentationTask
from densevit.training.settings import experiment_to_dict, resolve
from densevit.weights.pretrained import load_pretrained


def weights(run_dir, name="last.ckpt"):
    return torch.load(run_dir / "checkpoints" / name, weights_only=True)["state_dict"]


def assert_same_run(run_dir, reference):
    """Weights, metrics and exported model of two runs are equal to the last bit."""
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = weights(run_dir, name), weights(reference, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    for name in ("metrics.csv", "scores.json", "confusion.csv"):
        assert (run_dir / name).read_text() == (reference / name).read_text(), name


def interrupt_at(monkeypatch, *, method, call):
    """Send this process SIGINT at the given call (from 1) of a method of the task."""
    original, calls = getattr(SegmentationTask, method), []

    def counted(self, *args):
        calls.append(None)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    monkeypatch.setattr(SegmentationTask, method, counted)


@pytest.fixture
def drawn_nothing(monkeypatch):
    """Leaves out the pictures at the end of a run, which take longer than the tiny training."""
    for name in ("save_curves", "save_confusion"):
        monkeypatch.setattr(f"densevit.training.fit.{name}", lambda *args, **kwargs: None)


@pytest.fixture(scope="module")
def reference(tiny, tmp_path_factory):
    """An uninterrupted run of the tiny experiment."""
    run_dir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    fit(tiny(), run_dir)
    return run_dir


def test_every_documented_file_is_there(reference):
    documented = [
        *("config.yaml", "metrics.csv", "curves.png", "model.safetensors", "config.json", "README.md"),
        *("scores.json", "confusion.csv", "confusion.png", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
        *(f"pictures/step_{step:06d}.png" for step in (2, 4, 5)),
    ]
    written = {str(path.relative_to(reference)) for path in reference.rglob("*") if path.is_file()}
    assert {name for name in written if not name.startswith("tensorboard/")} == set(documented)
    assert any(name.startswith("tensorboard/events") for name in written)


def test_metrics_count_updates_from_one(reference):
    rows = [line.split(",") for line in (reference / "metrics.csv").read_text().splitlines()]
    score = rows[0].index("val/mIoU")
    assert [row[0] for row in rows[1:] if row[score] == ""] == ["1", "2", "3", "4", "5"]
    assert [row[0] for row in rows[1:] if row[score] != ""] == ["2", "4", "5"]
    rate = rows[0].index("train/lr")
    first, second, third = [float(row[rate]) for row in rows[1:] if row[rate]][:3]
    assert first == pytest.approx(0.01 * 1e-6, rel=1e-4)  # warm-up from `warmup_ratio` of the scheduled rate
    assert second == pytest.approx(0.01 * 0.8**0.9 * (1 - 0.5 * (1 - 1e-6)), rel=1e-4)
    assert third == pytest.approx(0.01 * 0.6**0.9, rel=1e-4)


def test_the_config_reads_back(reference, tiny):
    read = resolve(config=reference / "config.yaml")
    assert experiment_to_dict(read) == experiment_to_dict(tiny())


def test_the_model_is_the_best_checkpoint_and_knows_its_classes(reference):
    model, info = load_pretrained(reference)
    best = weights(reference, "best.ckpt")
    assert all(torch.equal(value, best[f"model.{key}"]) for key, value in model.state_dict().items())
    assert info.classes[0] == "sky"
    assert len(info.palette) == len(info.classes)
    scores = json.loads((reference / "scores.json").read_text())
    assert info.metrics["mIoU"] == scores["mean_iou"]


def test_pictures_show_image_truth_and_prediction(reference):
    picture = np.asarray(Image.open(reference / "pictures" / "step_000005.png"))
    assert picture.shape[0] > 32
    assert picture.shape[1] > 3 * 48


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("training_step", 3),  # in the middle of the two forward passes of update 2, before a validation
        ("training_step", 6),  # between two validations
        ("validation_step", 3),  # in the first validation (call 1 is the check before training)
        ("training_step", 10),  # in the last step
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(method, call, reference, tiny, tmp_path, monkeypatch, drawn_nothing):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, method=method, call=call)
        with pytest.raises(Stopped) as stop:
            fit(tiny(), run_dir)
    assert stop.value.checkpoint.is_file()
    fit(resolve(config=run_dir / "config.yaml"), run_dir, resume=True)
    assert_same_run(run_dir, reference)


def test_stopped_twice_at_the_same_validation(reference, tiny, tmp_path, monkeypatch, drawn_nothing):
    run_dir = tmp_path / "run"
    for resume in (False, True):
        with monkeypatch.context() as patch:
            interrupt_at(patch, method="validation_step", call=2)
            with pytest.raises(Stopped):
                fit(tiny(), run_dir, resume=resume)
    fit(tiny(), run_dir, resume=True)
    assert_same_run(run_dir, reference)


def test_killed_after_a_validation_goes_on_from_it(reference, tiny, tmp_path, monkeypatch, drawn_nothing):
    run_dir = tmp_path / "run"

    def die(self, batch, batch_idx):
        if self.trainer.global_step == 3:
            raise RuntimeError("as good as a kill")
        return step(self, batch, batch_idx)

    step = SegmentationTask.training_step
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "training_step", die)
        with pytest.raises(RuntimeError, match="as good as a kill"):
            fit(tiny(), run_dir)
    assert "\n3," in (run_dir / "metrics.csv").read_text()
    fit(tiny(), run_dir, resume=True)
    assert_same_run(run_dir, reference)


def test_a_finished_run_can_be_resumed_for_longer(tiny, tmp_path, monkeypatch, drawn_nothing):
    run_dir, given_back = tmp_path / "run", []
    monkeypatch.setattr("densevit.training.fit.give_back", lambda: given_back.append(True))
    fit(tiny(train={"num_steps": 4}, optim={"schedule": "constant"}), run_dir)
    fit(tiny(train={"num_steps": 4}, optim={"schedule": "constant"}), run_dir, resume=True)  # nothing left: files only
    result = fit(tiny(optim={"schedule": "constant"}), run_dir, resume=True)
    assert "\n5," in (result.run_dir / "metrics.csv").read_text()
    assert len(given_back) == 2  # of the two that trained
    with pytest.raises(UserError, match=r"already at step 5 of 4; raise train\.num_steps"):
        fit(tiny(train={"num_steps": 4}, optim={"schedule": "constant"}), run_dir, resume=True)


@pytest.mark.parametrize("change", [{"model": {"args": {"channels": 8}}}, {"optim": {"optimizer": "adamw"}}])
def test_a_resumed_run_keeps_its_model_and_optimizer(change, tiny, tmp_path, drawn_nothing):
    run_dir = tmp_path / "run"
    fit(tiny(train={"num_steps": 2}), run_dir)
    config = (run_dir / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"a resumed run keeps its (model\.args|optim\.optimizer)"):
        fit(tiny(train={"num_steps": 4}, **change), run_dir, resume=True)
    assert (run_dir / "config.yaml").read_text() == config


def test_early_stopping(tiny, tmp_path, monkeypatch, drawn_nothing):
    monkeypatch.setattr(SegmentationTask, "segment", lambda self, batch: torch.zeros_like(batch["mask"]))
    result = fit(tiny(train={"num_steps": 20, "val_every_steps": 2, "early_stopping": 2}), tmp_path / "run")
    assert result.best_step == 2  # equal scores later are no better
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[-1].startswith("6,")


def test_moving_average_of_the_weights(tiny, tmp_path, monkeypatch, drawn_nothing):
    """It is what is validated and exported, and resuming keeps it."""
    experiment, whole, parts = tiny(train={"ema": 0.9, "val_every_steps": 5}), tmp_path / "whole", tmp_path / "parts"
    fit(experiment, whole)
    with monkeypatch.context() as patch:
        interrupt_at(patch, method="training_step", call=6)
        with pytest.raises(Stopped):
            fit(experiment, parts)
    fit(experiment, parts, resume=True)
    assert_same_run(parts, whole)
    last, best = weights(whole), weights(whole, "best.ckpt")
    averaged = {key.removeprefix("ema.module."): value for key, value in last.items() if key.startswith("ema.module.")}
    assert best.keys() == {f"model.{key}" for key in averaged}
    assert all(torch.equal(best[f"model.{key}"], value) for key, value in averaged.items())
    assert not torch.equal(last["model.decoder.classifier.weight"], best["model.decoder.classifier.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"precision": "bf16"}},
        {"optim": {"optimizer": "adamw", "clip_grad_norm": 0.1, "layer_decay": 0.8, "weight_decay": 0.1}},
        {"loss": {"terms": {"ohem": 1.0, "lovasz": 0.5}, "class_weights": "balanced"}},
        {"eval": {"mode": "slide", "crop_size": (24, 24), "stride": (16, 16), "scales": (1.0, 1.5), "flip": True}},
        {"data": {"batch_size": 7}},
        {"data": {"args": {"image_size": (32, 48), "num_images": 1}, "num_workers": 2}},
    ],
    ids=["bf16", "adamw", "losses", "multi-scale", "large batch", "one image"],
)
def test_options_run(changes, tiny, tmp_path, drawn_nothing):
    changes = {"train": {"num_steps": 2, "val_every_steps": 1, "accumulate": 1} | changes.pop("train", {}), **changes}
    result = fit(tiny(**changes), tmp_path / "a folder é")
    assert result.best_step in (1, 2)
    assert np.isfinite(result.scores.mean_iou)


def test_refusals(reference, tiny, tmp_path):
    with pytest.raises(UserError, match="already holds a run; give another --out"):
        fit(tiny(), reference)
    with pytest.raises(UserError, match="nothing to resume"):
        fit(tiny(), tmp_path / "none", resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the run folder"):
        fit(tiny(), tmp_path / "file" / "run")
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        fit(tiny(train={"precision": "fp16"}), tmp_path / "a")
    with pytest.raises(UserError, match=r"train\.devices=0"):
        fit(tiny(train={"devices": 0}), tmp_path / "b")
    with pytest.raises(UserError, match="did you mean 'scenes'"):
        fit(tiny(data={"name": "scenees"}), tmp_path / "c")
    with pytest.raises(UserError, match="did you mean"):
        fit(tiny(model={"name": "setr_pup_vit_tinyy"}), tmp_path / "d")
    with pytest.raises(UserError, match="unknown split"):
        fit(tiny(data={"val_split": "validation"}), tmp_path / "e")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # no run was left behind


def test_a_damaged_checkpoint_is_refused(reference, tiny, tmp_path):
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes((reference / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"last\.ckpt cannot be read"):
        fit(tiny(), tmp_path / "run", resume=True)


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def cut_off(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


@pytest.mark.slow
def test_compiled_training_is_the_same_training(tiny, tmp_path, drawn_nothing, monkeypatch):
    """The captured graph, run by PyTorch itself so that no C++ compiler is needed. Dropout is off."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    args = tiny().model.args | {"drop_rate": 0.0, "decoder_dropout": 0.0}
    losses = []
    for compiled in (False, True):
        run_dir = tmp_path / str(compiled)
        fit(tiny(model={"args": args}, train={"num_steps": 2, "compile": compiled}), run_dir)
        losses.append(float((run_dir / "metrics.csv").read_text().splitlines()[-2].split(",")[1]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
