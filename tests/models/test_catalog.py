"""Names: every listed one builds, unknown ones get near matches, open-ended SETR names, arguments."""

import pytest
import torch

import densevit
from densevit.errors import UserError
from densevit.models.catalog import ENCODERS, create_model, list_models, model_kind
from densevit.models.hlg_ablations import PVTLayer
from densevit.models.segmenter import Segmenter
from densevit.models.setr import SETR_DECODERS

SMALL = {"encoder_args": {"depth": 4, "embed_dim": 48, "num_heads": 3}}


@pytest.mark.parametrize("name", [f"setr_{decoder}_{encoder}" for decoder in SETR_DECODERS for encoder in ENCODERS])
def test_every_listed_setr_builds(name):
    assert name in list_models()
    with torch.device("meta"):
        model = create_model(name, num_classes=7, image_size=(64, 96))
        assert model.eval()(torch.empty(1, 3, 60, 90)).shape == (1, 7, 60, 90)
    assert isinstance(model, Segmenter)


def test_list_models_patterns():
    assert "setr_pup_vit_large" in list_models()
    assert list_models() == sorted(list_models())
    assert list_models("setr_mla_beit_*") == ["setr_mla_beit_base", "setr_mla_beit_large"]
    assert list_models("nothing_*") == []
    assert set(list_models("setr_*_vit_*", kind="segmentation")) <= set(list_models())
    with pytest.raises(UserError, match="did you mean 'segmentation'"):
        list_models(kind="segmentaton")


def test_unknown_names_get_near_matches():
    with pytest.raises(UserError, match=r"did you mean .*'setr_pup_vit_large'"):
        create_model("setr_pup_vit_larg", num_classes=3)
    with pytest.raises(UserError, match="'setr_naive_vit_base'"):
        model_kind("setr_nave_vit_base")
    with pytest.raises(UserError, match="not a plain ViT"):
        create_model("setr_pup_resnet50", num_classes=3)


def test_unknown_arguments_get_near_matches():
    with pytest.raises(UserError, match=r"argument of setr_pup_vit_tiny 'drop_path'; did you mean 'drop_path_rate'"):
        create_model("setr_pup_vit_tiny", num_classes=3, drop_path=0.1)
    with pytest.raises(UserError, match="depht"):
        create_model("setr_pup_vit_tiny", num_classes=3, encoder_args={"depht": 3})


@pytest.mark.parametrize("num_classes", [0, -1, 2.5, True, "19"])
def test_num_classes_is_checked(num_classes):
    with pytest.raises(UserError, match="num_classes must be a whole number of at least 1"):
        create_model("setr_pup_vit_tiny", num_classes=num_classes)


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("setr_pup_vit_small_patch14_reg4_dinov2", 14),
        ("setr_mla_vit_small_patch16_dinov3", 16),
        ("setr_naive_vit_base_patch16_siglip_224", 16),
        ("setr_pup_vit_tiny_patch16_224", 16),
    ],
)
def test_any_plain_vit_of_timm_works_by_name(name, patch):
    model = create_model(name, num_classes=3, image_size=(5 * patch, 4 * patch), **SMALL).eval()
    assert model.size_multiple == (patch, patch)
    assert model_kind(name) == "segmentation"
    with torch.no_grad():
        assert model(torch.randn(1, 3, 50, 70)).shape == (1, 3, 50, 70)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("setr_pup_deit_base", "class"),
        ("setr_naive_vit_base", "class"),
        ("setr_mla_vit_base", "none"),
        ("setr_mla_beit_base", "all"),
        ("setr_pup_vit_small_patch14_reg4_dinov2", "all"),
    ],
)
def test_prefix_tokens_follow_the_official_code(name, prefix):
    with torch.device("meta"):
        assert create_model(name, num_classes=3).encoder.prefix_tokens == prefix


def test_config_rebuilds_the_model():
    model = densevit.create_model("setr_mla_vit_tiny", num_classes=3, image_size=(50, 70), channels=8, **SMALL)
    again = create_model(**model.config)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(again.state_dict()[k].shape == v.shape for k, v in model.state_dict().items())


def test_dropout_and_checkpointing_are_passed_on():
    arguments = {"drop_rate": 0.1, "drop_path_rate": 0.2, "decoder_dropout": 0.3, "grad_checkpointing": True}
    model = create_model("setr_pup_vit_tiny", num_classes=3, **arguments, **SMALL)
    assert model.encoder.vit.grad_checkpointing
    assert model.encoder.vit.pos_drop.p == 0.1
    assert model.encoder.vit.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.decoder.dropout.p == 0.3


@pytest.mark.parametrize("name", ["hlg_mobile", "resnet18"])
def test_features_have_no_classes(name):
    with torch.device("meta"):
        model = create_model(name, features_only=True)
        again = create_model(**model.config)
        maps = model(torch.empty(2, 3, 64, 96))
    assert [tuple(x.shape[-2:]) for x in maps][-4:] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert model.state_dict().keys() == again.state_dict().keys()
    with pytest.raises(UserError, match=f"'{name}' needs num_classes"):
        create_model(name)


def test_steps_of_table_14_are_an_argument():
    with torch.device("meta"):
        model = create_model("hlg_mobile", num_classes=3, step="pvt", features_only=False)
        again = create_model(**model.config)
    assert any(type(part) is PVTLayer for part in model.modules())
    assert model.state_dict().keys() == again.state_dict().keys()
    with pytest.raises(UserError, match=r"unknown step.*pvt"):
        create_model("hlg_mobile", num_classes=3, step="ptv")


def test_any_model_of_timm_is_a_classifier():
    assert model_kind("resnet18") == "classification"
    with torch.device("meta"):
        model = create_model(
            "swin_tiny_patch4_window7_224", num_classes=10, img_size=64, window_size=4, depths=(1,) * 4
        )
        assert model(torch.empty(2, 3, 64, 64)).shape == (2, 10)
    assert model.config["depths"] == (1,) * 4
    with torch.device("meta"), pytest.raises(UserError, match=r"does not take these arguments: .*'wings'"):
        create_model("resnet18", num_classes=10, wings=2)
    with pytest.raises(UserError, match=r"unknown model 'resnet5O'; did you mean .*'resnet50'"):
        create_model("resnet5O", num_classes=10)
    with pytest.raises(UserError, match=r"unknown model 'zzz'; `densevit models` lists"):
        create_model("zzz", num_classes=10)
