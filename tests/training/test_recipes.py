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


def shrink(experiment):
    """The recipe with a four-block encoder on 32 x 48 pixels."""
    args = {**experiment.model.args, "image_size": (32, 48), "channels": 16}
    args["encoder_args"] = {**args.get("encoder_args", {}), **SMALL_VIT}
    return replace(experiment, model=replace(experiment.model, pretrained=False, args=args))


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
    """Table 3 has 26 cells with a number beside two of its variants; 4 and 5 have seven SETR models on ADE20K."""
    by_data = {}
    for row in PAPER_ROWS.values():
        by_data.setdefault(row.experiment.data.name, []).append(row)
    assert {name: len(rows) for name, rows in by_data.items()} == {"cityscapes": 28, "ade20k": 7, "pascal_context": 5}
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
