"""timm's models behind the encoders: bad arguments in one sentence, weights that fill the whole model or none."""

import pytest
import timm
import torch

from densevit.errors import UserError
from densevit.models.catalog import create_model, create_setr
from densevit.models.encoders import build_timm, create_vit

NAME = "vit_tiny_patch16_224"
SMALL = {"img_size": (32, 48), "depth": 3, "embed_dim": 24, "num_heads": 2}


@pytest.fixture
def weights(tmp_path):
    """Arguments of a small model with weights in a file: 5 classes, 3 blocks."""
    torch.manual_seed(0)
    state = timm.create_model(NAME, num_classes=5, **SMALL).state_dict()
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    overlay = {"file": str(path), "num_classes": 5, "custom_load": False}
    return state, SMALL | {"pretrained_cfg_overlay": overlay}


@pytest.mark.parametrize(
    "bad", [{"num_heads": 5}, {"patch_size": 0}, {"drop_rate": 7}, {"embed_dim": -8}, {"depth": "x"}]
)
def test_arguments_that_timm_cannot_build_are_named(bad):
    with pytest.raises(UserError, match=f"{NAME}.*{next(iter(bad))}|does not take") as caught:
        create_vit(NAME, encoder_args=bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be height and width of at least 1 pixel, or one number, not 0"),
        ({"image_size": (64, -32)}, "image_size"),
        ({"image_size": (64, 32, 3)}, "image_size"),
        ({"channels": 0}, "channels must be a whole number of at least 1, not 0"),
        ({"channels": 2.5}, "channels"),
        ({"channels": True}, "channels"),
    ],
)
def test_sizes_below_one_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        create_setr("pup", "vit_tiny", num_classes=3, **arguments)


@pytest.mark.parametrize("num_classes", [0, 5, 7])
def test_weights_fill_all_but_another_classifier(weights, num_classes):
    state, args = weights
    own = build_timm(NAME, pretrained=True, num_classes=num_classes, **args).state_dict()
    copied = {key for key in state if key in own and torch.equal(own[key], state[key])}
    assert set(state) - copied == (set() if num_classes == 5 else {"head.weight", "head.bias"})
    assert num_classes == 0 or own["head.weight"].shape == (num_classes, 24)


@pytest.mark.parametrize("change", [{"depth": 5}, {"init_values": 1e-5}, {"embed_dim": 48}])
def test_weights_that_do_not_fill_the_model_are_refused(weights, change):
    _, args = weights
    with pytest.raises(UserError, match=f"do not fill the model.*{next(iter(change))}=") as caught:
        create_vit(NAME, pretrained=True, encoder_args=args | change)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="do not fill the model"):
        create_model(NAME, num_classes=7, pretrained=True, **args | change)


def test_a_shallower_model_takes_the_first_blocks(weights):
    state, args = weights
    vit = create_vit(NAME, pretrained=True, encoder_args=args | {"depth": 2})
    assert torch.equal(vit.blocks[1].mlp.fc2.weight, state["blocks.1.mlp.fc2.weight"])
