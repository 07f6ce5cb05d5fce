"""Pyramid encoders: strides and shapes, timm's weights complete or refused, one sentence for what does not fit."""

import pytest
import timm
import torch
from torch import nn

from densevit.errors import UserError
from densevit.models.pyramid import PyramidEncoder, create_pyramid, match_names

HLG = {"embed_dims": (8, 16, 32, 64), "num_heads": (1, 2, 2, 2), "depths": (1, 1, 1, 1)}
SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
RESNET = {"layers": (1, 1, 1, 1)}
ENCODERS = [
    ("hlg_tiny", HLG, (8, 16, 32, 64)),
    ("swin_tiny", SWIN, (8, 16, 32, 64)),
    ("resnet50", RESNET, (256, 512, 1024, 2048)),
    ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}, (32, 64, 160, 256)),
]


@pytest.mark.parametrize(("name", "args", "channels"), ENCODERS)
def test_four_maps_from_fine_to_coarse(name, args, channels):
    encoder = create_pyramid(name, encoder_args=args).eval()
    assert (encoder.channels, encoder.strides) == (channels, (4, 8, 16, 32))
    with torch.no_grad():
        shapes = [tuple(x.shape) for x in encoder(torch.randn(2, 3, 64, 96))]
    assert shapes == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]


@pytest.mark.parametrize(("name", "args", "channels"), ENCODERS[:3])
def test_some_strides_only_and_other_bands(name, args, channels):
    encoder = create_pyramid(name, strides=(8, 32), in_channels=5, encoder_args=args)
    assert (encoder.channels, encoder.strides) == ((channels[1], channels[3]), (8, 32))
    assert [x.shape[2] for x in encoder(torch.randn(2, 5, 64, 64))] == [8, 2]


def test_a_dilated_network_repeats_its_last_stride():
    encoder = create_pyramid("resnet50", strides=(4, 8, 8, 8), encoder_args={**RESNET, "output_stride": 8})
    assert encoder.channels == (256, 512, 1024, 2048)
    encoder = create_pyramid("resnet50", strides=(8, 8), encoder_args={**RESNET, "output_stride": 8}).eval()
    assert encoder.channels == (1024, 2048)
    with torch.no_grad():
        assert [tuple(x.shape[2:]) for x in encoder(torch.randn(1, 3, 40, 64))] == [(5, 8), (5, 8)]


def test_swin_maps_are_normed_and_channels_first():
    encoder = create_pyramid("swin_tiny", encoder_args=SWIN).eval()
    with torch.no_grad():
        maps = encoder(torch.randn(1, 3, 64, 96))
    for x in maps:
        means = x.mean(dim=1)
        torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-5, rtol=0)


def test_gradient_checkpointing_may_be_an_argument_of_the_encoder():
    assert create_pyramid("hlg_mobile", encoder_args={"grad_checkpointing": True}).body.grad_checkpointing


def test_gradient_checkpointing_and_drop_path_reach_the_body():
    encoder = create_pyramid("hlg_tiny", encoder_args=HLG, drop_path_rate=0.3, grad_checkpointing=True)
    assert encoder.body.grad_checkpointing
    assert encoder.body.stages[3][0].drop_path.drop_prob == pytest.approx(0.3)


@pytest.fixture
def file_of(tmp_path):
    """file_of(name, args): a timm model and the encoder_args that make its weights those of timm's download."""

    def make(name, args, **changes):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=5, **args).eval()
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 5, "custom_load": False}
        return model, {**args, "pretrained_cfg_overlay": overlay, **changes}

    return make


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("resnet50.tv_in1k", RESNET),
        ("swin_tiny_patch4_window7_224", SWIN),
        ("twins_svt_small", {"embed_dims": (8, 16, 32, 64), "depths": (1,) * 4, "num_heads": (1,) * 4}),
    ],
)
def test_timms_weights_fill_the_encoder(file_of, name, args):
    whole, with_file = file_of(name, args)
    encoder = create_pyramid(name, pretrained=True, encoder_args=with_file).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = whole.forward_features(images)
        last = encoder.body(images)[-1]
        if "resnet" in name:
            torch.testing.assert_close(last, expected)
    own, theirs = encoder.body.state_dict(), whole.state_dict()
    matched, unused = match_names(theirs, own)
    assert set(matched) == set(own)
    assert all(torch.equal(own[key], tensor) for key, tensor in matched.items())
    assert {key.split(".")[0] for key in unused} <= {"head", "fc", "norm"}


def test_timms_weights_that_do_not_fill_the_encoder_are_refused(file_of):
    _, deeper = file_of("resnet50", RESNET, layers=(1, 2, 1, 1))
    with pytest.raises(UserError, match=r"weights for 'resnet50\S*' do not fill the model .*layer2.1"):
        create_pyramid("resnet50", pretrained=True, encoder_args=deeper)


def test_names_of_extractors_are_matched():
    tensors = {"layers.0.blocks.1.w": torch.ones(1), "layers_out.w": torch.zeros(1), "head.fc.w": torch.ones(2)}
    matched, unused = match_names(tensors, {"layers_0.blocks.1.w": 0, "model.layers_out.w": 0})
    assert {key: tensor.item() for key, tensor in matched.items()} == {
        "layers_0.blocks.1.w": 1,
        "model.layers_out.w": 0,
    }
    assert unused == ["head.fc.w"]


class OneSize(nn.Module):
    """A body that insists on its size, as timm's models with learned positions do."""

    def forward(self, images):
        assert images.shape[-2:] == (32, 64), "Input height doesn't match model"
        return [images]


def test_a_body_of_one_size_says_so():
    encoder = PyramidEncoder(OneSize(), channels=(3,), strides=(32,), name="coat_tiny", fixed_size=(32, 64))
    assert encoder(torch.zeros(1, 3, 32, 64))[0].shape == (1, 3, 32, 64)
    with pytest.raises(UserError, match=r"coat_tiny is built for images of \(32, 64\) and does not take \(64, 64\)"):
        encoder(torch.zeros(1, 3, 64, 64))
    free = PyramidEncoder(OneSize(), channels=(3,), strides=(32,))
    with pytest.raises(AssertionError):
        free(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet5O", {}, "unknown pyramid encoder 'resnet5O'; did you mean 'resnet50'"),
        ("hlg_tiny", {"pretrained": True}, "hlg_tiny has no published weights; give a file: model.pretrained=PATH"),
        ("hlg_tiny", {"encoder_args": {"widths": 3}}, r"encoder_args \{'widths': 3\} do not fit hlg_tiny"),
        ("hlg_tiny", {"encoder_args": {"embed_dims": (8, 12, 32, 64)}}, r"embed_dims\[1\] 12 must be a multiple of"),
        (
            "hlg_tiny",
            {"encoder_args": {"depths": (1, 1, 1)}},
            r"depths needs a number for each.*not \(1, 1, 1\)",
        ),
        ("hlg_tiny", {"strides": (2, 4)}, "gives maps at strides 4, 8, 16, 32, but 2, 4 are needed"),
        ("mixer_s32_224", {}, "mixer_s32_224 gives maps at strides 32, 32, 32, but 4, 8, 16, 32 are needed"),
        ("resnet18", {"encoder_args": {"wings": 2}}, "does not take these arguments: .*'wings'"),
    ],
)
def test_what_does_not_fit_is_named(name, arguments, message):
    with torch.device("meta"), pytest.raises(UserError, match=message) as caught:
        create_pyramid(name, **arguments)
    assert "\n" not in str(caught.value)
