"""The COCO rows carry the paper's numbers; every detection recipe builds, takes two steps and detects."""

from dataclasses import replace

import pytest
import torch

from densevit.models.catalog import create_model, takes_argument
from densevit.training.detection import DetectionTask
from densevit.training.fit import build_model
from densevit.training.optim import build_optimizer, build_schedule, learning_rate
from densevit.training.recipes import RECIPES, get_recipe
from densevit.training.recipes_detection import COCO_ROWS, DETECTION_RECIPES, DROP_PATH

SMALL = {"hlg": {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1), "window_size": 4}}
DETECTION = [name for name in RECIPES if get_recipe(name).task == "detection"]
DISTINCT = {repr(get_recipe(name).model): name for name in reversed(DETECTION)}


def shrink(experiment):
    """The recipe with narrow heads and, but for ResNet, an encoder of four narrow layers."""
    model = experiment.model
    args = {**model.args, "channels": 8, "anchor_scale": 2.0}
    if takes_argument(model.name, "fc_channels"):
        args |= {"fc_channels": 8, "num_proposals": 20, "num_samples": 8}
    if "hlg" in model.name:
        args["encoder_args"] = SMALL["hlg"]
    else:
        args["encoder_args"] = {"layers": (1, 1, 1, 1)}
    return replace(experiment, model=replace(model, pretrained=False, args=args))


def test_which_there_are():
    assert set(DETECTION) == set(COCO_ROWS) | set(DETECTION_RECIPES)
    assert len(COCO_ROWS) == 20
    assert {"retinanet_hlg_tiny_coco", "mask_rcnn_hlg_small_coco_3x", "mask_rcnn_resnet50_coco"} <= set(COCO_ROWS)
    assert {"pennfudan", "coco_overfit", "scenes_detection"} == set(DETECTION_RECIPES)


@pytest.mark.parametrize("name", DISTINCT.values())
def test_builds_at_full_size(name):
    model = get_recipe(name).model
    with torch.device("meta"):
        assert create_model(model.name, num_classes=80, **model.args).num_classes == 80


@pytest.mark.parametrize("name", DISTINCT.values())
def test_two_steps_and_a_detection(name):
    torch.manual_seed(0)
    experiment = shrink(get_recipe(name))
    model = build_model(experiment.model, num_classes=2, task="detection")
    task = DetectionTask(experiment, model, classes=("a", "b"), palette=((0, 0, 0),) * 2, category_ids=(1, 2)).train()
    optimizer = build_optimizer(model, experiment.optim)
    schedule = build_schedule(optimizer, experiment.optim, num_steps=2)
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 8:40, 8:40] = True
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1]), "masks": masks}
    batch = {"image": [torch.randn(3, 64, 64), torch.randn(3, 48, 40)], "target": [target, {**target}]}
    batch["target"][1]["masks"] = masks[:, :48, :40]
    before = {key: value.clone() for key, value in model.named_parameters()}
    for _ in range(2):
        losses = task.losses(batch)
        torch.testing.assert_close(losses["loss"], sum(losses[key] for key in losses if key != "loss"))
        optimizer.zero_grad()
        losses["loss"].backward()
        unused = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not unused, "several devices would wait for the gradients of these"
        optimizer.step()
        schedule.step()
    assert torch.isfinite(losses["loss"])
    moved = {key.split(".")[0] for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert {"encoder", "fpn"} < moved
    with torch.no_grad():
        found = task.eval().detect({"image": batch["image"], "size": [(64, 64), (96, 80)]})
    assert all(("masks" in each) == model.with_masks for each in found)


@pytest.mark.parametrize("name", COCO_ROWS)
def test_the_protocol_of_a_row(name):
    experiment = get_recipe(name)
    optim, data, train = experiment.optim, experiment.data, experiment.train
    epochs = 36 if name.endswith("_3x") else 12
    assert train.num_steps == epochs * 7330
    assert (optim.optimizer, optim.lr, optim.weight_decay, optim.head_lr_mult) == ("adamw", 1e-4, 1e-4, 1)
    assert (optim.warmup_steps, optim.warmup_ratio, optim.clip_grad_norm) == (500, 1e-3, None)
    assert optim.decay_biases

    def rate(epoch):
        return learning_rate(epoch * 7330, base_lr=1e-4, num_steps=train.num_steps, config=optim)

    first, second = (27, 33) if epochs == 36 else (8, 11)
    assert [rate(first - 1), rate(first), rate(second)] == pytest.approx([1e-4, 1e-5, 1e-6])
    assert (data.batch_size, data.flip, data.long_side, data.keep_empty) == (16, 0.5, 1333, False)
    assert data.short_sides[-1] == 800
    assert data.short_sides[0] == (480 if epochs == 36 else 640)
    assert data.args == {"masks": name.startswith("mask_rcnn")}
    assert (experiment.eval.short_side, experiment.eval.long_side, experiment.eval.max_detections) == (800, 1333, 100)


def test_the_numbers_of_the_paper():
    assert COCO_ROWS["retinanet_hlg_large_coco"].box_ap == 47.7
    assert COCO_ROWS["retinanet_hlg_large_coco"].mask_ap is None
    assert (COCO_ROWS["mask_rcnn_hlg_medium_coco"].box_ap, COCO_ROWS["mask_rcnn_hlg_medium_coco"].mask_ap) == (
        48.2,
        43.4,
    )
    assert COCO_ROWS["mask_rcnn_hlg_medium_coco_3x"].box_ap is None
    assert [DROP_PATH[f"hlg_{size}"] for size in ("mobile", "tiny", "small", "medium", "large")] == [0.1] * 3 + [
        0.3
    ] * 2
    assert get_recipe("mask_rcnn_hlg_medium_coco").model.args == {"drop_path_rate": 0.3}
    assert get_recipe("retinanet_resnet50_coco").model.pretrained is True
