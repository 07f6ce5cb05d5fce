"""Ablations: the counts of Tables 12 to 14, and every choice changes what it says and nothing else."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from densevit.errors import UserError
from densevit.models.hlg import HLG, create_hlg
from densevit.models.hlg_ablations import HLG_STEPS, PVTLayer, create_hlg_step
from densevit.models.hlg_layer import LocalGlobalAttention

TABLE_14 = {"pvt": (24.5, 4.0), "dwmlp": (24.2, 4.2), "shared_local": (24.2, 4.7), "plain_dilated": (24.2, 4.7)}
SMALL = {"embed_dims": (16, 32, 32, 64), "num_heads": (1, 2, 2, 4), "depths": (2, 2, 2, 1), "num_classes": 5}


def count(build, *args, **kwargs):
    """(parameters in M, multiply-accumulates in G at 224) on the meta device."""
    with torch.device("meta"):
        model = build(*args, **kwargs).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224, device="meta"))
    return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9


@pytest.mark.parametrize("step", HLG_STEPS)
def test_steps_have_the_counts_of_table_14(step):
    assert count(create_hlg_step, step) == pytest.approx(TABLE_14[step], rel=0.03)


@pytest.mark.parametrize("step", HLG_STEPS)
def test_steps_train_and_take_any_size(step):
    torch.manual_seed(0)
    model = create_hlg_step(step, **SMALL, drop_path_rate=0.1)
    model(torch.randn(2, 3, 60, 97)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    encoder, images = create_hlg_step(step, **SMALL, features_only=True).eval(), torch.randn(1, 3, 60, 97)
    maps = encoder(images)
    assert maps[3].shape[2:] == (2, 4)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("step", ["pvt", "dwmlp"])
def test_the_first_steps_refuse_what_only_later_ones_vary(step):
    for argument in ({"window_size": 4}, {"position_bias": False}, {"window_embedding": "maxpool"}):
        with pytest.raises(UserError, match=f"takes no {next(iter(argument))}"):
            create_hlg_step(step, **SMALL, **argument)


def test_steps_are_made_of_what_they_say():
    kinds = {step: [type(m) for m in create_hlg_step(step, **SMALL).modules()] for step in HLG_STEPS}
    assert PVTLayer in kinds["pvt"]
    assert PVTLayer not in kinds["dwmlp"]
    assert LocalGlobalAttention not in kinds["dwmlp"]
    rates = [m.dilation for m in create_hlg_step("shared_local", **SMALL).modules() if hasattr(m, "local_key")]
    assert rates == [1] * 6
    rates = [m.dilation for m in create_hlg_step("plain_dilated", **SMALL).modules() if hasattr(m, "local_key")]
    assert rates == [1, "span"] * 3


def test_unknown_step_lists_the_steps():
    with pytest.raises(UserError, match="choose one of: dwmlp, plain_dilated, pvt, shared_local"):
        create_hlg_step("baseline")


def test_a_step_refuses_what_it_does_not_have():
    with pytest.raises(UserError, match="plain windows only, got dilation=8"):
        create_hlg_step("shared_local", dilation=8, **SMALL)


def test_window_embeddings_have_the_counts_of_table_12():
    assert count(create_hlg, "hlg_tiny", window_embedding="avgpool")[0] == pytest.approx(11.0, rel=0.015)
    assert count(create_hlg, "hlg_tiny", window_embedding="dwconv")[0] == pytest.approx(11.0, rel=0.015)


def test_own_local_key_costs_what_the_notes_say():
    assert count(create_hlg, "hlg_small", local_key="own") == pytest.approx((24.3, 5.0), rel=0.01)


@pytest.mark.parametrize(
    ("option", "same_parameters"),
    [
        ({"window_embedding": "maxpool"}, True), ({"window_embedding": "dwconv"}, False), ({"dilation": 1}, True),
        ({"dilation": 5}, True), ({"dilation": 7}, True), ({"dilation": (8, 4, 2)}, True), ({"local_key": "own"}, True),
        ({"position_bias": False}, False), ({"squeeze_excite": True}, False), ({"mlp_ratio": 2.0}, False),
        ({"window_size": 5}, True),
    ],
)  # fmt: skip
@torch.no_grad()
def test_every_option_changes_the_function(option, same_parameters):
    images = torch.randn(1, 3, 320, 256)
    outputs = []
    torch.manual_seed(0)
    model = HLG(**SMALL).eval()
    changed = HLG(**SMALL, **option).eval()
    assert (model.state_dict().keys() == changed.state_dict().keys()) is (same_parameters or "mlp_ratio" in option)
    if same_parameters:
        changed.load_state_dict(model.state_dict())
    outputs = [model(images), changed(images)]
    assert not torch.allclose(*outputs)


def test_fixed_rates_equal_to_side_over_r_are_the_default():
    torch.manual_seed(0)
    model, fixed = HLG(**SMALL).eval(), HLG(**SMALL, dilation=(8, 4, 2)).eval()
    fixed.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(images), fixed(images))
