"""Learning rates and parameter groups: which parameter gets which, by hand."""

from math import cos, pi

import pytest
import torch
from torch import nn

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.training.config import OptimConfig
from densevit.training.optim import (
    build_optimizer,
    build_schedule,
    layer_depths,
    learning_rate,
    parameter_groups,
    scaled_to_batch,
)

SMALL = {"image_size": (32, 48), "channels": 16, "encoder_args": {"depth": 4, "embed_dim": 24, "num_heads": 2}}


def model_of(name):
    with torch.device("meta"):
        return create_model(name, num_classes=3, **SMALL)


def rate(step, **config):
    return learning_rate(step, base_lr=0.1, num_steps=100, config=OptimConfig(lr=0.1, **config))


def test_poly_with_a_floor():
    assert rate(0, min_lr=1e-4) == pytest.approx(0.1)
    assert rate(50, min_lr=1e-4) == pytest.approx((0.1 - 1e-4) * 0.5**0.9 + 1e-4)
    assert rate(100, min_lr=1e-4) == pytest.approx(1e-4)
    assert rate(75, poly_power=1.0) == pytest.approx(0.025)
    assert rate(200) == 0


def test_the_floor_is_the_same_for_the_heads():
    config = OptimConfig(lr=0.01, min_lr=1e-4)
    assert learning_rate(100, base_lr=0.1, num_steps=100, config=config) == pytest.approx(1e-4)
    assert learning_rate(50, base_lr=0.1, num_steps=100, config=config) == pytest.approx(0.0999 * 0.5**0.9 + 1e-4)


def test_warm_up_multiplies_the_schedule():
    config = {"warmup_steps": 10, "warmup_ratio": 0.2}
    assert rate(0, **config) == pytest.approx(0.1 * 0.2)
    assert rate(5, **config) == pytest.approx(0.1 * 0.95**0.9 * 0.6)
    assert rate(10, **config) == pytest.approx(0.1 * 0.9**0.9)


def test_cosine_and_constant():
    assert rate(25, schedule="cosine") == pytest.approx(0.1 * (1 + cos(pi / 4)) / 2)
    assert rate(99, schedule="constant") == 0.1


def test_steps():
    config = {"schedule": "step", "milestones": (8 / 12, 11 / 12), "warmup_steps": 2, "warmup_ratio": 0.5}
    rates = [learning_rate(step, base_lr=1.0, num_steps=12, config=OptimConfig(**config)) for step in range(12)]
    assert rates == pytest.approx([0.5, 0.75] + [1.0] * 6 + [0.1] * 3 + [0.01])
    with pytest.raises(UserError, match=r"optim.schedule=step needs optim.milestones, such as \[0.67,0.92\]"):
        OptimConfig(schedule="step")
    for wrong in ((0.9, 0.6), (0.5, 1.0), (0.0,), (0.5, 0.5)):
        with pytest.raises(UserError, match=r"optim.milestones must be rising numbers between 0 and 1, not \("):
            OptimConfig(schedule="step", milestones=wrong)


def test_the_scheduler_follows_it_for_every_group():
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": nn.Linear(2, 2)})
    config = OptimConfig(lr=0.1, min_lr=0.01, warmup_steps=3)
    optimizer = build_optimizer(model, config)
    schedule = build_schedule(optimizer, config, num_steps=8)
    for step in range(8):
        for group in optimizer.param_groups:
            full = 1.0 if group["name"].startswith("head") else 0.1
            assert group["lr"] == pytest.approx(learning_rate(step, base_lr=full, num_steps=8, config=config))
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_heads_learn_ten_times_as_fast_and_nothing_else(decoder):
    """Decoder and auxiliary heads; the aggregation of MLA is a neck, which the authors' code has in the backbone."""
    model = model_of(f"setr_{decoder}_vit_tiny")
    groups = parameter_groups(model, OptimConfig(lr=0.01))
    lr = {id(p): group["lr"] for group in groups for p in group["params"]}
    names = {name: lr[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert len(names) == sum(len(group["params"]) for group in groups)
    fast = {name.split(".")[0] for name, value in names.items() if value == pytest.approx(0.1)}
    slow = {name.split(".")[0] for name, value in names.items() if value == 0.01}
    assert fast == {"decoder", "auxiliary_heads"}
    assert slow == ({"encoder", "neck"} if decoder == "mla" else {"encoder"})


def test_what_is_never_decayed():
    model = model_of("setr_mla_vit_tiny")
    groups = parameter_groups(model, OptimConfig(optimizer="adamw", weight_decay=0.05))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        is_weight = name.endswith(".weight") and parameter.ndim > 1
        if parameter.requires_grad:
            assert decay[id(parameter)] == (0.05 if is_weight else 0), name
    assert decay[id(model.get_parameter("encoder.vit.pos_embed"))] == 0
    assert decay[id(model.get_parameter("encoder.vit.patch_embed.proj.weight"))] == 0.05


def test_biases_are_decayed_where_it_is_asked_for():
    model = create_model("retinanet_hlg_mobile", num_classes=2)
    groups = parameter_groups(model, OptimConfig(optimizer="adamw", weight_decay=0.05, decay_biases=True))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    kinds = {
        "encoder.body.stages.0.0.mlp.expand.conv.bias": 0.05,
        "encoder.body.stages.0.0.attn.q.bias": 0.05,
        "encoder.body.stages.0.0.mlp.expand.norm.bias": 0,
        "encoder.body.stages.0.0.norm1.bias": 0,
        "encoder.body.stages.0.0.norm1.weight": 0,
        "encoder.body.stages.0.0.attn.q.weight": 0.05,
    }
    assert {name: decay[id(model.get_parameter(name))] for name in kinds} == kinds


def test_layer_decay_by_depth():
    model = model_of("setr_pup_vit_tiny")
    groups = parameter_groups(model, OptimConfig(lr=0.1, layer_decay=0.5))
    lr = {id(p): group["lr"] for group in groups for p in group["params"]}
    expected = {
        "encoder.vit.blocks.3.mlp.fc1.weight": 0.1 / 2,
        "encoder.vit.blocks.0.mlp.fc1.weight": 0.1 / 16,
        "encoder.vit.pos_embed": 0.1 / 32,
        "encoder.vit.patch_embed.proj.weight": 0.1 / 32,
        "decoder.classifier.weight": 1.0,
    }
    assert {name: lr[id(model.get_parameter(name))] for name in expected} == pytest.approx(expected)


def test_layer_decay_counts_the_layers_of_stages():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(1, 1, bias=False)
            self.stages = nn.ModuleList(nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(2)) for _ in range(2))
            self.norm = nn.Linear(1, 1, bias=False)

    depths = layer_depths(nn.ModuleDict({"encoder": Encoder()}))
    assert depths == {
        "encoder.stem.weight": 5,
        "encoder.stages.0.0.weight": 4,
        "encoder.stages.0.1.weight": 3,
        "encoder.stages.1.0.weight": 2,
        "encoder.stages.1.1.weight": 1,
    }
    depths = layer_depths(Encoder())  # a classifier has no encoder beside other parts, it is one
    assert (depths["stem.weight"], depths["stages.1.1.weight"]) == (5, 1)
    with pytest.raises(UserError, match="needs an encoder made of blocks"):
        layer_depths(nn.ModuleDict({"encoder": nn.Linear(1, 1)}))


PYRAMIDS = {
    "setr_pup_hlg_mobile": {
        "encoder_args": {"embed_dims": (8, 16, 16, 32), "num_heads": (1, 1, 1, 1), "depths": (1, 2, 1, 1)},
        "decoder_args": {"channels": 16},
    },
    "upernet_swin_tiny": {"encoder_args": {"embed_dim": 8, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 1, 1)}},
    "fcn_resnet50": {"encoder_args": {"layers": (1, 2, 1, 1)}},
}


@pytest.mark.parametrize("name", PYRAMIDS)
def test_heads_on_pyramids_learn_ten_times_as_fast_and_nothing_else(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=3, **PYRAMIDS[name])
    groups = parameter_groups(model, OptimConfig(optimizer="adamw", lr=6e-5, weight_decay=0.01))
    of = {id(p): group for group in groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        is_head = key.startswith(("decoder.", "auxiliary_heads."))
        assert of[id(parameter)]["lr"] == pytest.approx(6e-4 if is_head else 6e-5), key
        is_bias_table = key.endswith("relative_position_bias_table")
        assert of[id(parameter)]["weight_decay"] == (0 if parameter.ndim == 1 or is_bias_table else 0.01), key


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "setr_pup_hlg_mobile",
            {
                "stem.0": 6,
                "stages.0.0": 5,
                "stages.1.0": 4,
                "stages.1.1": 3,
                "stages.2.0": 2,
                "stages.3.0": 1,
                "norms.0": 0,
            },
        ),
        (
            "upernet_swin_tiny",
            {"patch_embed": 6, "layers_0": 5, "layers_1.downsample": 4, "layers_1.blocks.1": 3, "layers_3.blocks.0": 1},
        ),
        ("fcn_resnet50", {"conv1": 6, "layer1.0": 5, "layer2.0": 4, "layer2.1": 3, "layer3.0": 2, "layer4.0": 1}),
    ],
)
def test_layer_decay_on_pyramids(name, expected):
    with torch.device("meta"):
        model = create_model(name, num_classes=3, **PYRAMIDS[name])
    depths, names = layer_depths(model), [key for key, _ in model.named_parameters()]
    for part, depth in expected.items():
        below = [key for key in names if key.startswith(f"encoder.body.{part}.")]
        assert {depths.get(key, 0) for key in below} == {depth}, part
    assert not any(key.startswith(("decoder.", "auxiliary_heads.")) for key in depths)


def test_optimizers():
    model = nn.ModuleDict({"decoder": nn.Linear(2, 2)})
    sgd = build_optimizer(model, OptimConfig(momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.8
    adamw = build_optimizer(model, OptimConfig(optimizer="adamw", betas=(0.8, 0.9)))
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["betas"] == (0.8, 0.9)


def test_the_schedule_can_wait_for_the_warm_up():
    config = {"schedule": "cosine", "warmup_steps": 20, "warmup_ratio": 0.01, "warmup_prefix": True, "min_lr": 0.02}
    assert rate(0, **config) == pytest.approx(0.1 * 0.01)
    assert rate(10, **config) == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    assert rate(20, **config) == pytest.approx(0.1)
    assert rate(60, **config) == pytest.approx(0.06)
    assert rate(100, **config) == pytest.approx(0.02)
    assert rate(5, schedule="cosine", warmup_steps=200, warmup_prefix=True) > 0


def test_rates_in_proportion_to_the_batch():
    config = OptimConfig(lr=1e-3, min_lr=1e-5, lr_batch_size=1024)
    scaled = scaled_to_batch(config, 256)
    assert (scaled.lr, scaled.min_lr) == (pytest.approx(2.5e-4), pytest.approx(2.5e-6))
    assert scaled_to_batch(scaled, 256) == scaled  # once only
    assert scaled_to_batch(OptimConfig(lr=1e-3), 256).lr == 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"optim.betas must be in \[0, 1\), not \(0.9, 1.0\)"),
        ({"betas": (-0.1, 0.9)}, "optim.betas"),
        ({"poly_power": 0.0}, "optim.poly_power must be above 0, not 0.0"),
        ({"warmup_ratio": -1e-6}, r"optim.warmup_ratio must be in \[0, 1\], not -1e-06"),
        ({"warmup_ratio": 1.5}, "optim.warmup_ratio"),
        ({"momentum": 1.0}, r"optim.momentum must be in \[0, 1\), not 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        OptimConfig(**values)


def test_the_heads_of_a_detector():
    hlg = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 4), "depths": (1, 1, 1, 1), "window_size": 4}
    for name, extra in (("retinanet_hlg_tiny", {}), ("mask_rcnn_hlg_tiny", {"fc_channels": 16})):
        with torch.device("meta"):
            model = create_model(name, num_classes=3, channels=8, encoder_args=hlg, **extra)
        groups = {group["name"]: group for group in parameter_groups(model, OptimConfig(lr=1.0, weight_decay=0.1))}
        of_encoder = {id(value) for value in model.encoder.parameters()}
        for key, group in groups.items():
            assert all((id(value) in of_encoder) == key.startswith("encoder") for value in group["params"])
            assert all(
                (value.ndim > 1 and group["weight_decay"] == 0.1) or group["weight_decay"] == 0
                for value in group["params"]
            )
        assert groups["head"]["lr"] == 10
        depths = layer_depths(model)
        assert max(depths.values()) == 5  # four layers and the stem
        assert {depths[key] for key in depths if not key.startswith("encoder.")} <= {0}
