"""Segmenters on pyramids by name: a training step and a prediction of each, saving, compiling, exporting, errors."""

import pytest
import torch

from densevit.errors import UserError
from densevit.models.catalog import create_model, list_models, model_kind
from densevit.models.fcn import FCNHead
from densevit.models.pyramid_segmenter import LISTED

HLG = {"embed_dims": (8, 16, 16, 32), "num_heads": (1, 2, 2, 2), "depths": (1, 2, 1, 1)}
SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
RESNET = {"layers": (1, 1, 1, 1)}
NARROW = {"channels": 8, "auxiliary_channels": 8}
MODELS = {
    "setr_pup_hlg_mobile": {"encoder_args": HLG, "decoder_args": {**NARROW, "num_heads": 2}},
    "upernet_hlg_tiny": {"encoder_args": HLG, "decoder_args": NARROW},
    "upernet_swin_tiny": {"encoder_args": SWIN, "decoder_args": NARROW},
    "upernet_pvt_v2_b0": {"encoder_args": {"depths": (1, 1, 1, 1)}, "decoder_args": NARROW},
    "semantic_fpn_hlg_mobile": {"encoder_args": HLG, "decoder_args": {"channels": 8, "branch_channels": 8}},
    "semantic_fpn_resnet50": {"encoder_args": RESNET, "decoder_args": {"channels": 8}},
    "fcn_resnet101": {"encoder_args": RESNET, "decoder_args": NARROW},
}
WITH_AUXILIARY = [name for name in MODELS if not name.startswith("semantic_fpn")]


TO_ONE_GRAPH = [
    pytest.param("setr_pup_hlg_mobile", marks=pytest.mark.slow),
    pytest.param("semantic_fpn_resnet50", marks=pytest.mark.slow),
    "upernet_swin_tiny",
    "fcn_resnet101",
]


def build(name, **arguments):
    torch.manual_seed(0)
    return create_model(name, num_classes=5, **MODELS[name] | arguments)


@pytest.mark.parametrize(
    "name", [f"{decoder}_{encoder}" for decoder, encoders in LISTED.items() for encoder in encoders]
)
def test_every_listed_one_builds(name):
    assert name in list_models(kind="segmentation")
    with torch.device("meta"):
        model = create_model(name, num_classes=7)
    assert len(model.auxiliary_heads) == (0 if name.startswith("semantic_fpn") else 1)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(64, 96), (50, 37), (7, 11)])
def test_logits_have_the_images_size(name, size):
    model = build(name).eval()
    assert model_kind(name) == "segmentation"
    with torch.no_grad():
        assert model(torch.randn(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_reaches_every_parameter(name):
    model = build(name, drop_path_rate=0.1).train()
    outputs = model.forward_all(torch.randn(2, 3, 40, 70))
    assert len(outputs) == (2 if name in WITH_AUXILIARY else 1)
    assert {tuple(logits.shape) for logits in outputs} == {(2, 5, 40, 70)}
    sum(logits.square().mean() for logits in outputs).backward()
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_auxiliary_heads_as_asked_for():
    assert len(build("upernet_swin_tiny", auxiliary=False).auxiliary_heads) == 0
    model = build("semantic_fpn_resnet50", auxiliary=True)
    (head,) = model.auxiliary_heads
    assert isinstance(head, FCNHead)
    assert head.convs[0][0].in_channels == model.encoder.channels[2] == 1024  # stage 3
    assert head.convs[0][0].out_channels == 256
    fcn = build("fcn_resnet101")
    assert fcn.auxiliary_heads[0].convs[0][0].in_channels == 1024
    assert (fcn.encoder.strides, fcn.size_multiple) == ((8, 8), (8, 8))


@pytest.mark.parametrize("name", ["setr_pup_hlg_mobile", "upernet_swin_tiny", "fcn_resnet101"])
def test_config_and_weights_rebuild_the_model(name):
    model = build(name).eval()
    again = create_model(**model.config).eval()
    again.load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 40, 70)
    with torch.no_grad():
        assert torch.equal(model(images), again(images))


def test_state_dict_names_stay():
    """Runs and published files depend on these."""
    keys = {key.split(".")[0] + "." + key.split(".")[1] for key in build("semantic_fpn_hlg_mobile").state_dict()}
    assert keys == {"encoder.body", "decoder.fpn", "decoder.branches", "decoder.classifier"}


def test_bands_and_group_norm():
    model = build("upernet_swin_tiny", in_channels=4, norm="group").train()
    assert len(model.forward_all(torch.randn(1, 4, 64, 64))) == 2  # a batch of one, which batch norm could not


@pytest.mark.parametrize("name", TO_ONE_GRAPH)
def test_compiles_without_graph_breaks(name):
    model = build(name).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = torch.randn(1, 3, 40, 70)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TO_ONE_GRAPH)
def test_exports(name):
    model = build(name).eval()
    images = torch.randn(1, 3, 40, 70)
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "upernet_swin_tiny",
            {"decoder_args": {"chanels": 8}},
            "decoder_args key of upernet 'chanels'; did you mean 'ch",
        ),
        (
            "upernet_swin_tiny",
            {"decoder_args": {"channels": 0}},
            "channels must be a whole number of at least 1, not 0",
        ),
        ("fcn_resnet50", {"decoder_args": {"auxiliary_channels": 2.5}}, "auxiliary_channels must be a whole number"),
        ("setr_pup_hlg_tiny", {"decoder_args": {"fuse_stride": 8}}, "fuse_stride must be 4"),
        ("setr_pup_hlg_tiny", {"pretrained": True}, "hlg_tiny has no published weights"),
        ("setr_pup_hlg_tiny", {"image_size": 512}, "unknown argument of setr_pup_hlg_tiny 'image_size'"),
        ("fcn_hlg_tiny", {}, "FCN needs an encoder that can be dilated to output stride 8, which hlg_tiny cannot"),
        ("fcn_swin_tiny", {}, "which swin_tiny cannot; use a network such as fcn_resnet50, .* upernet_swin_tiny"),
        ("setr_pup_resnet50", {}, "SETR needs a plain ViT, .* use upernet_resnet50 or semantic_fpn_resnet50"),
        ("setr_naive_hlg_small", {}, "use setr_pup_hlg_small, upernet_hlg_small or semantic_fpn_hlg_small"),
        ("setr_pup_mixer_s32_224", {}, "is not a plain ViT; use a name such as setr_pup_vit_base"),
        ("setr_pup_hlg_smal", {}, "did you mean 'setr_pup_hlg_small'"),
        ("setr_pup_vit_base_patch14_dinov9", {}, "did you mean 'setr_pup_vit_base_patch14_dinov2'"),
        ("setr_pup_qqqqqq", {}, "choose one of: setr_pup_beit_base, .*setr_pup_hlg_tiny"),
        (
            "upernet_vit_base_patch16_224",
            {},
            "is a plain ViT with one; use setr_pup_vit_base_patch16_224, or .* upernet_",
        ),
        ("retinanet_vit_base", {}, "a pyramid such as retinanet_swin_tiny"),
        ("semantic_fpn_resnet5O", {}, "unknown model 'semantic_fpn_resnet5O'; did you mean 'semantic_fpn_resnet50'"),
        ("upernet_mixer_s32_224", {}, "gives maps at strides 32, 32, 32, but 4, 8, 16, 32 are needed"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(name, arguments, message):
    with torch.device("meta"), pytest.raises(UserError, match=message) as caught:
        create_model(name, num_classes=3, **arguments)
    assert "\n" not in str(caught.value)
