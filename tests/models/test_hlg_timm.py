"""HLG through timm: listed, built, used as a feature extractor."""

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

from densevit.errors import UserError
from densevit.models.hlg import HLG_VARIANTS
from densevit.models.hlg_timm import register_hlg
from densevit.training.optim import layer_depths


def test_timm_lists_every_variant_once():
    register_hlg()
    assert timm.list_models("hlg*") == sorted(HLG_VARIANTS)


def test_timm_builds_a_classifier():
    model = timm.create_model("hlg_mobile", num_classes=7, drop_path_rate=0.1, in_chans=1).eval()
    assert model(torch.randn(2, 1, 64, 96)).shape == (2, 7)
    assert model.get_classifier().out_features == 7


def test_timm_builds_a_feature_extractor():
    model = timm.create_model("hlg_mobile", features_only=True, out_indices=(1, 2, 3), pretrained=False).eval()
    shapes = [m.shape[1:] for m in model(torch.randn(1, 3, 70, 100))]
    assert shapes == [(96, 9, 13), (192, 5, 7), (384, 3, 4)]
    assert model.feature_info.channels() == [96, 192, 384]
    assert model.feature_info.reduction() == [8, 16, 32]


@pytest.mark.parametrize(("arguments", "message"), [({"pretrained": True}, "weights"), ({"output_stride": 16}, "32")])
def test_what_cannot_be_had_is_said(arguments, message):
    with pytest.raises(UserError, match=message):
        timm.create_model("hlg_mobile", **arguments)


def test_timms_ways_of_asking():
    images = torch.randn(1, 3, 64, 64)
    assert timm.create_model("hlg_mobile", num_classes=0).eval()(images).shape == (1, 384)
    assert timm.create_model("hlg_mobile", num_classes=0, global_pool="").eval()(images).shape == (1, 384, 2, 2)
    assert timm.create_model("hlg_mobile", features_only=True, out_indices=2).feature_info.channels() == [192, 384]
    with pytest.raises(UserError, match="pools by the mean only"):
        timm.create_model("hlg_mobile", global_pool="max")
    with pytest.raises(UserError, match=r"no logits of 1000 classes.*num_classes=0"):
        timm.create_model("hlg_mobile", global_pool="")


def test_timms_layer_decay_is_ours():
    model = timm.create_model("hlg_mobile", num_classes=5)
    groups = create_optimizer_v2(model, opt="adamw", lr=1.0, layer_decay=0.5).param_groups
    rates = {id(value): group["lr_scale"] for group in groups for value in group["params"]}
    depths = layer_depths(model)
    for name, parameter in model.named_parameters():
        assert rates[id(parameter)] == 0.5 ** depths.get(name, 0), name
    assert max(depths.values()) == sum(HLG_VARIANTS["hlg_mobile"]["depths"]) + 1
    assert len(group_parameters(model, model.group_matcher(coarse=True))) == 6  # stem, four stages, the rest
