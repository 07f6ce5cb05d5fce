"""Every recipe resolves, builds and takes two steps; the paper's rows carry the paper's numbers."""

from dataclasses import replace

import pytest
import torch

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.training.fit import build_model
from densevit.training.optim import build_optimizer, build_schedule
from densevit.training.paper_recipes import PAPER_ROWS, RUN_HERE
from densevit.training.recipes import RECIPES, get_recipe
from densevit.training.segmentation import SegmentationTask
from densevit.training.settings import experiment_from_dict, experiment_to_dict

NUM_CLASSES = 3
SMALL_VIT = {"depth": 4, "embed_dim": 24, "num_heads": 2}


def key_of(experiment):
    """Recipes with one key differ only in how long and on what they train."""
    return repr((experiment.model.name, {k: v for k, v in experiment.model.args.items() if k != "image_size"}))


SEGMENTATION = [name for name in RECIPES if get_recipe(name).task == "segmentation"]
DISTINCT = {key_of(get_recipe(name)): name for name in reversed(SEGMENTATION)}


SMALL_PYRAMIDS = {
    "hlg": {"embed_dims": (8, 16, 16, 32), "num_heads": (1, 1, 1, 1), "depths": (1, 1, 1, 1)},
    "swin": {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)},
    "resnet101": {"layers": (1, 1, 1, 1)},
}


def shrink(experiment):
    """The recipe with an encoder of four blocks, for 32 x 48 pixels."""
    model = experiment.model
    kind = next((kind for kind in SMALL_PYRAMIDS if kind in model.name), None)
    if kind is None:
        args = {**model.args, "image_size": (32, 48), "channels": 16}
        args["encoder_args"] = {**args.get("encoder_args", {}), **SMALL_VIT}
    else:
        args = {**model.args, "encoder_args": SMALL_PYRAMIDS[kind]}
        args["decoder_args"] = {**args.get("decoder_args", {}), "channels": 16}
    return replace(experiment, model=replace(model, pretrained=False, args=args))


@pytest.mark.parametrize("name", RECIPES)
def test_resolves_to_plain_values_and_back(name):
    values = experiment_to_dict(get_recipe(name))
    assert experiment_to_dict(experiment_from_dict(values)) == values


@pytest.mark.parametrize("name", DISTINCT.values())
def test_builds_at_full_size(name):
    model = get_recipe(name).model
    with torch.device("meta"):
        segmenter = create_model(model.name, num_classes=19, **model.args)
    assert segmenter.num_classes == 19


@pytest.mark.parametrize("name", DISTINCT.values())
def test_two_steps(name):
    torch.manual_seed(0)
    experiment = shrink(get_recipe(name))
    model = build_model(experiment.model, num_classes=NUM_CLASSES)
    task = SegmentationTask(experiment, model, classes=("a", "b", "c"), palette=((0, 0, 0),) * NUM_CLASSES)
    optimizer = build_optimizer(model, experiment.optim)
    schedule = build_schedule(optimizer, experiment.optim, num_steps=2)
    batch = {"image": torch.randn(2, 3, 32, 48), "mask": torch.randint(0, NUM_CLASSES, (2, 32, 48))}
    batch["mask"][0, :4] = 255
    before = {key: value.clone() for key, value in model.named_parameters()}
    for _ in range(2):
        losses = task.losses(batch)
        parts = [losses[key] for key in losses if key.startswith("aux")]
        torch.testing.assert_close(losses["loss"], losses["main"] + 0.4 * sum(parts))
        optimizer.zero_grad()
        losses["loss"].backward()
        unused = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not unused, "several devices would wait for the gradients of these"
        optimizer.step()
        schedule.step()
    assert torch.isfinite(losses["loss"])
    moved = {key.split(".")[0] for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert {"encoder", "decoder"} <= moved


def test_unknown_names_have_near_matches():
    with pytest.raises(UserError, match="unknown recipe 'demoo'; did you mean 'demo'"):
        get_recipe("demoo")


def test_the_rows_of_the_paper():
    """Table 3 has 26 cells with a number beside two of its variants, and FCN and Semantic FPN; Table 5 has seven SETR
    models on ADE20K, three with HLG, three of Swin and FCN.
    """
    by_data = {}
    for row in PAPER_ROWS.values():
        by_data.setdefault(row.experiment.data.name, []).append(row)
    assert {name: len(rows) for name, rows in by_data.items()} == {"cityscapes": 34, "ade20k": 14, "pascal_context": 5}
    assert PAPER_ROWS["setr_pup_vit_large_cityscapes_80k"].miou == 79.34
    assert PAPER_ROWS["setr_pup_vit_large_cityscapes_80k"].miou_ms == 82.2
    assert PAPER_ROWS["setr_pup_vit_large_cityscapes_40k"].miou_ms is None
    assert PAPER_ROWS["setr_mla_beit_large_ade20k_160k"].miou == 53.0
    assert PAPER_ROWS["setr_pup_vit_large_random_cityscapes_40k"].experiment.model.pretrained is False
    assert set(PAPER_ROWS) <= set(RECIPES)
    assert set(RUN_HERE) <= set(RECIPES)


@pytest.mark.parametrize(
    ("name", "lr"),
    [
        ("setr_naive_vit_large_cityscapes_40k", 0.01),
        ("setr_pup_deit_base_cityscapes_80k", 0.01),
        ("setr_mla_vit_large_cityscapes_80k", 0.002),
        ("setr_naive_vit_large_ade20k_160k", 0.01),
        ("setr_mla_deit_base_ade20k_160k", 0.001),
        ("setr_naive_vit_large_pascal_context_80k", 0.01),
        ("setr_pup_vit_large_pascal_context_80k", 0.001),
    ],
)
def test_the_protocol_of_a_row(name, lr):
    experiment = get_recipe(name)
    optim = experiment.optim
    assert (optim.optimizer, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", lr, 0.9, 0)
    assert (optim.head_lr_mult, optim.poly_power, optim.min_lr, optim.warmup_steps) == (10, 0.9, 1e-4, 0)
    assert (experiment.loss.mean_over, experiment.loss.auxiliary_weight) == ("all", 0.4)
    crop, stride, batch = {"cityscapes": (768, 512, 8), "ade20k": (512, 341, 16), "pascal_context": (480, 320, 16)}[
        experiment.data.name
    ]
    assert experiment.data.crop_size == experiment.eval.crop_size == (crop, crop)
    assert experiment.model.args["image_size"] == (crop, crop)
    assert experiment.eval.stride == (stride, stride)
    assert experiment.data.batch_size == batch
    assert (experiment.data.ratio_range, experiment.data.cat_max_ratio) == ((0.5, 2.0), 0.75)


@pytest.mark.parametrize("name", [name for name in PAPER_ROWS if name.startswith("setr_pup_hlg")])
def test_the_protocol_of_setr_pup_hlg(name):
    experiment = get_recipe(name)
    optim = experiment.optim
    assert (optim.optimizer, optim.lr, optim.betas, optim.weight_decay) == ("adamw", 6e-5, (0.9, 0.999), 0)
    assert (optim.head_lr_mult, optim.poly_power, optim.min_lr) == (10, 1, 0)
    assert (optim.warmup_steps, optim.warmup_ratio) == (1500, 1e-6)
    assert (experiment.loss.mean_over, experiment.loss.auxiliary_weight, experiment.data.batch_size) == ("all", 0.4, 16)
    crop, stride, num_steps = {"cityscapes": (768, 512, 80_000), "ade20k": (512, 341, 160_000)}[experiment.data.name]
    assert experiment.data.crop_size == experiment.eval.crop_size == (crop, crop)
    assert (experiment.eval.stride, experiment.train.num_steps) == ((stride, stride), num_steps)


def test_the_rows_with_hlg_and_those_compared_with():
    assert PAPER_ROWS["setr_pup_hlg_small_ade20k_160k"].miou_ms == 47.3
    assert PAPER_ROWS["setr_pup_hlg_large_cityscapes_80k"].miou_ms == 82.9
    assert PAPER_ROWS["fcn_resnet101_cityscapes_80k"].miou == 75.52
    assert PAPER_ROWS["upernet_swin_base_ade20k_160k"].experiment.model.pretrained.endswith("ms_in1k")
    assert PAPER_ROWS["upernet_swin_tiny_ade20k_160k"].experiment.optim.head_lr_mult == 1
    assert PAPER_ROWS["semantic_fpn_resnet101_cityscapes_80k"].experiment.eval.mode == "whole"
