"""Image classification end to end: files and shards, mixing by hand, resuming, scores, refusals."""

import json
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import Mixup
from torch import nn

from densevit.cli.main import main
from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.training.callbacks import Stopped
from densevit.training.classification import ClassificationTask, mixing
from densevit.training.classification_data import ClassificationData
from densevit.training.config import ModelConfig, OptimConfig, TrainConfig
from densevit.training.config_classification import (
    ClassificationDataConfig,
    ClassificationExperiment,
    ClassificationLossConfig,
)
from densevit.training.evaluate import evaluate
from densevit.training.fit import build_model, fit
from densevit.training.recipes import get_recipe
from densevit.training.recipes_classification import CLASSIFICATION_RECIPES, DROP_PATH
from densevit.training.settings import resolve
from densevit.weights.pretrained import load_pretrained

SMALL_HLG = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 2, 1), "window_size": 4}
SIZE = (24, 32)


def make(root, *, name="image_folder", **changes):
    """A training of seconds: a tiny HLG on 24 x 32 pixels; changes such as train={"num_steps": 2}."""
    parts = {
        "model": ModelConfig(name="hlg_tiny", args={**SMALL_HLG, "drop_path_rate": 0.1}),
        "data": ClassificationDataConfig(
            name=name, root=str(root), batch_size=4, num_workers=0, image_size=SIZE, shuffle_buffer=3
        ),
        "optim": OptimConfig(optimizer="adamw", lr=1e-3, warmup_steps=1),
        "loss": ClassificationLossConfig(),
        "train": TrainConfig(num_steps=4, val_every_steps=2, log_every_steps=1, accelerator="cpu", ema=0.9),
    }
    return ClassificationExperiment(**{key: replace(part, **changes.get(key, {})) for key, part in parts.items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_class_folders):
    root = tmp_path_factory.mktemp("data")
    write_class_folders(root / "train", ["cat", "dog", "owl"], 4)
    write_class_folders(root / "val", ["cat", "dog", "owl"], 2)
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory, write_shards):
    return write_shards(tmp_path_factory.mktemp("shards"), num_shards=3, samples_each=6, size=(20, 30))


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "files"
    fit(make(folder), run_dir)
    return run_dir


def test_files_of_a_run(run):
    for name in ("config.yaml", "curves.png", "model.safetensors", "scores.json", "confusion.csv", "confusion.png"):
        assert (run / name).stat().st_size > 0, name
    header, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    assert {"train/loss", "train/lr", "val/top1", "val/top5", "val/top1_plain", "val/top1_ema"} <= set(header)
    assert [row[0] for row in rows] == ["1", "2", "2", "3", "4", "4"]
    best = max(float(row[header.index("val/top1")]) for row in rows if row[header.index("val/top1")])
    scores = json.loads((run / "scores.json").read_text())
    assert scores["top1"] == pytest.approx(best, rel=1e-5)
    assert scores["num_images"] == 6
    assert scores["top5"] == 1.0


def test_the_exported_model_has_the_scores_it_claims(run):
    model, info = load_pretrained(run)
    assert (info.task, info.classes) == ("classification", ("cat", "dog", "owl"))
    scores = evaluate(model, info, resolve(config=run / "config.yaml"))
    stored = json.loads((run / "scores.json").read_text())
    assert scores.top1 == stored["top1"] == info.metrics["top1"]
    assert [row["support"] for row in scores.to_dict()["classes"]] == [2, 2, 2]


def test_the_better_of_plain_and_averaged_weights_is_kept(folder):
    experiment = make(folder)
    model = build_model(experiment.model, num_classes=3, task="classification")
    task = ClassificationTask(experiment, model, classes=("cat", "dog", "owl"))

    def always(module, label):
        nn.init.zeros_(module.head.weight)
        module.head.bias.data = F.one_hot(torch.tensor(label), 3).float()

    assert not any(weight.requires_grad for weight in task.ema.parameters())  # several devices would wait for these
    always(task.model, 1)
    always(task.ema.module, 2)
    task.eval()
    for target, used in ((1, task.model), (2, task.ema.module)):
        task.validation_step({"image": torch.randn(2, 3, *SIZE), "label": torch.tensor([target, target])}, 0)
        assert task.pop_scores().top1 == 1.0
        assert task.used_model is used


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_stopped_and_resumed_equals_uninterrupted(kind, folder, shards, run, tmp_path, monkeypatch):
    experiment = make(folder) if kind == "files" else make(shards, name="shards", data={"args": {"val_shards": 1}})
    reference = run
    if kind == "shards":
        reference = tmp_path / "uninterrupted"
        fit(experiment, reference)
    original, calls = ClassificationTask.training_step, []

    def step(self, *args):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", step)
        with pytest.raises(Stopped):
            fit(experiment, tmp_path / "run")
    fit(experiment, tmp_path / "run", resume=True)
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = (
            torch.load(path / "checkpoints" / name, weights_only=True)["state_dict"]
            for path in (tmp_path / "run", reference)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert (tmp_path / "run" / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()


def test_mixup_by_hand():
    config = ClassificationDataConfig(mixup=0.8, cutmix=0.0)
    images, target = torch.randn(4, 3, 6, 8), torch.tensor([0, 1, 2, 2])
    np.random.seed(3)
    mixed, targets = mixing(config, num_classes=3)(images.clone(), target)
    np.random.seed(3)
    np.random.rand()  # whether the batch is mixed
    share = np.random.beta(0.8, 0.8)
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.flip(0))
    expected = [[share, 0, 1 - share], [0, share, 1 - share], [0, 1 - share, share], [1 - share, 0, share]]
    torch.testing.assert_close(targets, torch.tensor(expected, dtype=torch.float32))


def test_cutmix_counts_its_pixels():
    config = ClassificationDataConfig(mixup=0.0, cutmix=1.0)
    images = torch.arange(2.0)[:, None, None, None].expand(2, 3, 10, 20)
    for seed in range(5):
        np.random.seed(seed)
        mixed, targets = mixing(config, num_classes=2)(images.clone(), torch.tensor([0, 1]))
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), targets[:, 1])
    assert mixing(replace(config, cutmix=0.0), num_classes=2) is None


def test_smoothing_in_the_loss_is_smoothing_of_the_mixed_target(folder):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 32, 3))
    task = ClassificationTask(make(folder, train={"ema": None}), model, classes=("cat", "dog", "owl"))
    batch = {"image": torch.randn(4, 3, *SIZE), "label": torch.tensor([0, 1, 2, 2])}
    before = batch["image"].clone()
    np.random.seed(1)
    loss = task.losses(batch)["loss"]
    assert torch.equal(batch["image"], before)  # mixing does not touch the batch that others see
    np.random.seed(1)
    mixed, targets = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=3)(before.clone(), batch["label"])
    torch.testing.assert_close(loss, -(targets * model(mixed).log_softmax(dim=1)).sum(dim=1).mean())


def test_learning_rates_scale_with_the_real_batch(folder):
    optim = {"lr_batch_size": 2, "min_lr": 1e-5}
    task = ClassificationTask(make(folder, optim=optim, train={"accumulate": 3}), nn.Linear(1, 1), classes=("a", "b"))
    assert task.optim_config.lr == pytest.approx(1e-3 * 6)
    assert task.optim_config.min_lr == pytest.approx(6e-5)
    assert ClassificationTask(make(folder), nn.Linear(1, 1), classes=("a", "b")).optim_config.lr == 1e-3


@pytest.mark.parametrize("name", CLASSIFICATION_RECIPES)
def test_every_recipe_takes_two_steps(name, tmp_path, write_class_folders, write_shards):
    recipe = get_recipe(name)
    if recipe.data.name == "imagenet":
        for split in ("train", "val"):
            write_class_folders(tmp_path / split, ["n01440764", "n02123045"], 2, suffix=".JPEG")
        model = replace(recipe.model, args={**recipe.model.args, **SMALL_HLG})
        size = (24, 32)
    else:
        write_shards(tmp_path, num_shards=2, samples_each=4)
        model, size = recipe.model, recipe.data.image_size
    experiment = replace(
        recipe,
        model=model,
        data=replace(recipe.data, root=str(tmp_path), batch_size=2, num_workers=0, image_size=size),
        train=replace(recipe.train, num_steps=2, val_every_steps=2, precision="fp32", accelerator="cpu"),
    )
    result = fit(experiment, tmp_path / "run")
    assert result.scores.support == ((2, 2) if recipe.data.name == "imagenet" else (1, 2, 1))
    assert "nan" not in (tmp_path / "run" / "metrics.csv").read_text()


def test_the_papers_recipe():
    for name, drop_path in DROP_PATH.items():
        recipe = get_recipe(f"{name}_imagenet")
        assert recipe.model.name == name
        assert recipe.model.args["drop_path_rate"] == drop_path
        assert create_model(recipe.model.name, num_classes=2, **recipe.model.args).num_classes
    assert (DROP_PATH["hlg_large"], DROP_PATH["hlg_small"]) == (0.3, 0.1)
    data, optim, train = recipe.data, recipe.optim, recipe.train
    assert train.num_steps == 300 * 1251
    assert optim.warmup_steps == 20 * 1251
    assert (optim.optimizer, optim.lr, optim.lr_batch_size, optim.weight_decay) == ("adamw", 1e-3, 1024, 0.05)
    assert (optim.schedule, optim.min_lr, optim.clip_grad_norm) == ("cosine", 1e-5, 5.0)
    assert (data.batch_size, data.image_size, data.interpolation) == (1024, (224, 224), "bicubic")
    assert (data.mixup, data.cutmix, data.cutmix_share, data.mix_prob, data.erase) == (0.8, 1.0, 0.5, 1.0, 0.25)
    assert (data.auto_augment, data.color_jitter) == ("rand-m9-mstd0.5-inc1", 0.4)
    assert (recipe.loss.label_smoothing, train.ema) == (0.1, 0.99996)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("swin_tiny_patch4_window7_224", {}, r"no images of 3 x 24 x 32.*weights are for 3 x 224 x 224"),
        ("resnet18", {"in_chans": 1}, r"resnet18 with model.args=\{'in_chans': 1\} takes no images"),
        ("hlg_mobile", {"in_chans": 1}, "the images have 3 channels, the model in_chans=1"),
    ],
)
def test_models_that_do_not_take_the_images(name, args, message, folder, tmp_path):
    with pytest.raises(UserError, match=message):
        fit(make(folder, model={"name": name, "args": args}), tmp_path / "run")


def test_a_warm_up_without_end_is_told(folder, tmp_path, capsys):
    fit(make(folder, optim={"warmup_steps": 1000}), tmp_path / "run")
    assert "optim.warmup_steps=1000, takes all of train.num_steps=4" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(3, 5), (16, 7)])
def test_images_smaller_than_a_window(size, folder, tmp_path):
    experiment = make(folder, data={"image_size": size}, train={"num_steps": 1, "ema": None})
    assert np.isfinite(fit(experiment, tmp_path / "run").scores.top1)


def test_a_shard_cut_short_stops_the_training(shards, tmp_path, write_shards):
    root = write_shards(tmp_path / "data", num_shards=2, samples_each=6)
    broken = root / "train-000.tar"
    broken.write_bytes(broken.read_bytes()[:4000])
    with pytest.raises(UserError, match=r"shard .*train-000\.tar is cut short or damaged"):
        fit(make(root, name="shards", data={"args": {"val_shards": 1}}), tmp_path / "run")


def test_an_image_that_is_text_stops_the_training(tmp_path, write_class_folders):
    for split in ("train", "val"):
        write_class_folders(tmp_path / split, ["a", "b"], 2)
    (tmp_path / "train" / "a" / "0.png").write_text("I am text")
    with pytest.raises(UserError, match=r"cannot read image .*train/a/0\.png"):
        fit(make(tmp_path), tmp_path / "run")


def test_classes_that_do_not_match(run, folder, tmp_path, write_class_folders):
    model, info = load_pretrained(run)
    write_class_folders(tmp_path / "val", ["cat", "cow", "owl"], 1)
    with pytest.raises(UserError, match="class 1 is 'dog' for the model but 'cow' in data set 'image_folder'"):
        evaluate(model, info, make(tmp_path))
    write_class_folders(tmp_path / "more" / "val", ["cat", "dog", "emu", "owl"], 1)
    with pytest.raises(UserError, match="the model knows 3 classes but data set 'image_folder' has 4"):
        evaluate(model, info, make(tmp_path / "more"))
    write_class_folders(tmp_path / "train", ["ant", "bee", "cow", "owl"], 1)
    with pytest.raises(UserError, match="unknown class 'cat'"):
        ClassificationData(make(tmp_path).data, num_batches=1, seed=0)


def test_weights_of_another_run_start_a_training(run, folder, tmp_path):
    model, _ = load_pretrained(run)
    start = build_model(
        ModelConfig(name="hlg_tiny", args=SMALL_HLG, pretrained=str(run)), num_classes=5, task="classification"
    )
    theirs = model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in start.state_dict().items() if "head" not in key)
    assert start.head.weight.shape[0] == 5
    with pytest.raises(UserError, match=r"fills only .*; give the same architecture"):
        build_model(ModelConfig(name="resnet10t", pretrained=str(run)), num_classes=5, task="classification")


@pytest.mark.parametrize(("classes", "same"), [(["cat", "dog", "owl"], True), (["cat", "dog", "pig"], False)])
def test_a_last_layer_for_other_classes_is_left_out(run, classes, same, capsys):
    model, _ = load_pretrained(run)
    config = ModelConfig(name="hlg_tiny", args=SMALL_HLG, pretrained=str(run))
    start = build_model(config, num_classes=3, task="classification", classes=classes)
    assert torch.equal(start.head.weight, model.head.weight) == same
    assert torch.equal(start.stem[0].conv.weight, model.stem[0].conv.weight)
    assert ("2 missing (left as they were): head.weight, head.bias" in capsys.readouterr().out) != same


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--data.batch_size=3"], r"data.batch_size must be a multiple of 2, not 3: .*since batches are mixed"),
        (["--data.erase=2"], "data.erase is a probability, not 2"),
        (["--data.crop_pct=1.5"], r"data.crop_pct must be in \(0, 1\]"),
        (["--model.name=setr_pup_vit_tiny"], "setr_pup_vit_tiny is a model for segmentation, not classification"),
        (["--data.name=scenes"], "data set 'scenes' has no class for an image"),
        (
            [
                "--model.name=vit_tiny_patch16_224",
                "--model.args={img_size: 32, global_pool: ''}",
                "--data.image_size=[32,32]",
            ],
            r"gives \(1, 5, 3\) for one image, not \(1, 3\), a logit for each class",
        ),
        (["--data.crop_size=[3,3]"], "unknown setting"),
        (["--data.args.root=x"], "data.args.root is not an option; use data.root"),
        (["--data.args.channels=1", "--data.batch_size=4"], "3 channels, not 1; set data.args.channels=3"),
    ],
)
def test_mistakes(settings, message, folder, tmp_path, capsys):
    root = [] if "--data.name=scenes" in settings else [f"--data.root={folder}"]
    args = ["fit", "--recipe", "hlg_tiny_imagenet", "--data.name=image_folder", *root, "--out", str(tmp_path / "run")]
    if root == []:
        args.remove("--data.name=image_folder")
    assert main([*args, "--train.accelerator=cpu", "--data.num_workers=0", *settings]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "run").exists()


def test_classes_without_validation_images_are_named(tmp_path, write_class_folders, capsys):
    write_class_folders(tmp_path / "data" / "train", ["cat", "dog", "owl"], 2)
    write_class_folders(tmp_path / "data" / "val", ["dog"], 2)
    fit(make(tmp_path / "data", train={"num_steps": 1}), tmp_path / "run")
    assert "2 classes have no image in split 'val': cat, owl\n" in capsys.readouterr().err


def test_the_command_line_from_training_to_prediction(folder, tmp_path, capsys):
    out = tmp_path / "run"
    settings = ["--data.num_workers=0", "--data.batch_size=4", "--data.image_size=[24,32]", "--train.num_steps=2"]
    model = ["--model.name=hlg_mobile", "--model.args.depths=[1,1,1,1]", "--train.precision=fp32"]
    recipe = ["--recipe", "hlg_tiny_imagenet", "--data.name=image_folder", f"--data.root={folder}"]
    assert main(["fit", *recipe, "--out", str(out), "--train.accelerator=cpu", *settings, *model]) == 0
    assert "always predicting the most frequent class has top-1 33.33 %" in capsys.readouterr().out
    for batch in ([], ["--data.batch_size=5"]):  # nothing is mixed, so it may be odd
        assert main(["validate", "--model", str(out), "--device", "cpu", *batch]) == 0
        assert "top-5 100.00 %" in capsys.readouterr().out
    picture = str(folder / "val" / "cat" / "0.png")
    predict = ["predict", picture, "--model", str(out), "--device", "cpu", "--out", str(tmp_path / "p"), "--top", "2"]
    assert main(predict) == 0
    header, *rows = (tmp_path / "p" / "predictions.csv").read_text().splitlines()
    assert header == "file,rank,class,probability"
    assert [row.split(",")[:2] for row in rows] == [[picture, "1"], [picture, "2"]]
    Image.new("L", (3, 9)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    both = [str(tmp_path / "small.png"), str(tmp_path / "text.png")]
    assert main(["predict", *both, "--model", str(out), "--device", "cpu", "--out", str(tmp_path / "q")]) == 1
    output = capsys.readouterr()
    assert "1 of 2 pictures classified" in output.out
    assert "skipped: cannot read image" in output.err
    for wrong, message in (
        ("--confidence", "--confidence is for segmentation"),
        ("--topk=2", "unknown option 'topk'; did you mean 'top'"),
        ("--eval.mode=slide", "--eval.mode=slide cannot be set for a model for classification"),
    ):
        assert main([*predict, wrong]) == 2
        assert message in capsys.readouterr().err
