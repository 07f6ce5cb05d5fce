"""Weights for pyramid encoders: our own classifiers and segmenters, timm's files and names, what is refused."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.models.pyramid import create_pyramid
from densevit.weights.info import ModelInfo
from densevit.weights.load import load_encoder
from densevit.weights.pretrained import HEADER_KEY, save_pretrained

HLG = {"embed_dims": (8, 16, 16, 32), "num_heads": (1, 2, 2, 2), "depths": (1, 1, 1, 1)}
RESNET = {"layers": (1, 1, 1, 1)}
SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
NARROW = {"channels": 8, "auxiliary_channels": 8}


def classifier(**changes):
    torch.manual_seed(0)
    return create_model("hlg_mobile", num_classes=4, **HLG | changes).eval()


@pytest.fixture
def run(tmp_path):
    """run(model): a run folder as `densevit fit` leaves it."""

    def save(model):
        info = ModelInfo(
            task="classification",
            model=dict(model.config),
            classes=tuple("abcd"),
            palette=(),
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
        )
        save_pretrained(model, tmp_path / "run", info=info)
        checkpoint = {"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}
        checkpoint["state_dict"]["ema.decay"] = torch.ones(1)
        (tmp_path / "run" / "checkpoints").mkdir(exist_ok=True)
        torch.save(checkpoint | {HEADER_KEY: info.to_json()}, tmp_path / "run" / "checkpoints" / "last.ckpt")
        return tmp_path / "run"

    return save


def segmenter(name="setr_pup_hlg_mobile", **arguments):
    decoder = {"num_heads": 2} if name.startswith("setr") else {}
    arguments = {"encoder_args": HLG, "decoder_args": {**NARROW, **decoder}} | arguments
    torch.manual_seed(1)
    return create_model(name, num_classes=5, **arguments).eval()


@pytest.mark.parametrize("file", [".", "model.safetensors", "checkpoints/last.ckpt"])
def test_our_own_hlg_classifier(run, file):
    theirs, ours = classifier(), segmenter()
    report = load_encoder(ours, run(theirs) / file)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours.encoder(images)[-1], theirs.forward_features(images))
    assert report.missing == [f"body.norms.{i}.{part}" for i in range(3) for part in ("weight", "bias")]
    assert sorted(report.unexpected) == ["head.bias", "head.weight"]
    assert "(hlg_mobile, embed_dims=" in report.source


def test_a_bare_encoder_of_some_strides(run):
    theirs, encoder = classifier(), create_pyramid("hlg_mobile", strides=(8, 16, 32), encoder_args=HLG)
    report = load_encoder(encoder, run(theirs))
    assert torch.equal(encoder.body.stages[2][0].mlp.project.weight, theirs.stages[2][0].mlp.project.weight)
    assert report.missing == [f"body.norms.{i}.{part}" for i in (1, 2) for part in ("weight", "bias")]


def test_a_detector(run):
    theirs, ours = classifier(), create_model("retinanet_hlg_mobile", num_classes=3, encoder_args=HLG)
    load_encoder(ours, run(theirs))
    assert torch.equal(ours.encoder.body.stem[0].conv.weight, theirs.stem[0].conv.weight)


def test_our_own_segmenter_of_another_decoder(tmp_path):
    theirs = segmenter("semantic_fpn_hlg_mobile", decoder_args={"channels": 8})
    ours = segmenter()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    report = load_encoder(ours, tmp_path / "theirs.pth")
    assert report.missing == []
    for key, tensor in theirs.encoder.state_dict().items():
        assert torch.equal(ours.encoder.state_dict()[key], tensor)


def test_other_widths_are_refused_with_those_of_the_file(run):
    path = run(classifier())
    ours = segmenter(encoder_args={**HLG, "embed_dims": (8, 16, 32, 64)})
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    message = r"\(hlg_mobile, embed_dims=\[8, 16, 16, 32\], .*another architecture: .*encoder_args"
    with pytest.raises(UserError, match=message) as caught:
        load_encoder(ours, path)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in ours.state_dict().items())
    with pytest.raises(UserError, match=r"has only \d+ of the encoder's \d+ tensors"):
        load_encoder(segmenter(encoder_args={**HLG, "depths": (1, 2, 2, 1)}), path)


def test_a_vit_in_a_pyramid_is_refused(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"has only 0 of the encoder's"):
        load_encoder(segmenter(), tmp_path / "vit.pth")


@pytest.mark.parametrize(
    ("model", "name", "args"),
    [
        ("upernet_resnet50", "resnet50", RESNET),
        ("upernet_swin_tiny", "swin_tiny_patch4_window7_224", SWIN),
        ("semantic_fpn_twins_svt_small", "twins_svt_small", {"depths": (1,) * 4, "embed_dims": (8, 16, 32, 64)}),
    ],
)
def test_timms_state_dicts(tmp_path, model, name, args):
    whole = timm.create_model(name, num_classes=7, **args).eval()
    torch.save({"model": whole.state_dict()}, tmp_path / "timm.pth")
    ours = segmenter(model, encoder_args=args, decoder_args={"channels": 8})
    report = load_encoder(ours, tmp_path / "timm.pth")
    body, theirs = ours.encoder.body.state_dict(), whole.state_dict()
    same = [key for key in body if torch.equal(body[key], theirs[_timms_name(key, theirs)])]
    assert len(same) == len(body)
    assert all(key.startswith("norms.") for key in report.missing)  # Swin's maps end without norms
    assert {key.split(".")[0] for key in report.unexpected} <= {"fc", "head", "norm"}


def _timms_name(key, theirs):
    return next(name for name in theirs if name.replace(".", "_") == key.removeprefix("model.").replace(".", "_"))


def test_torchvisions_resnet_and_four_bands(tmp_path):
    theirs = torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    encoder = create_pyramid("resnet18", in_channels=4, encoder_args=RESNET)
    report = load_encoder(encoder, tmp_path / "resnet.pth")
    assert report.resized == ["body.conv1.weight (64, 3, 7, 7) -> (64, 4, 7, 7)"]
    torch.testing.assert_close(encoder.body.conv1.weight[:, :3], theirs.conv1.weight * 3 / 4)
    assert report.unexpected == ["fc.weight", "fc.bias"]


def test_four_bands_for_hlg(run):
    theirs, ours = classifier(), segmenter(in_channels=4)
    report = load_encoder(ours, run(theirs))
    assert report.resized == ["body.stem.0.conv.weight (8, 3, 3, 3) -> (8, 4, 3, 3)"]
    with pytest.raises(UserError, match=r"weights for 4 bands cannot be adapted to 3"):
        load_encoder(segmenter(), run(classifier(in_chans=4)))


def test_timm_by_name(monkeypatch):
    asked = []

    def download(name, *, pretrained, **args):
        asked.append((name, pretrained))
        return timm.create_model(name, **RESNET)

    monkeypatch.setattr("densevit.weights.pyramid.build_timm", download)
    ours = segmenter("semantic_fpn_resnet50", encoder_args=RESNET, decoder_args={})
    report = load_encoder(ours, "timm:resnet50.a1_in1k")
    assert (asked, report.missing) == ([("resnet50.a1_in1k", True)], [])
    load_encoder(ours, "resnet50")
    assert asked[1] == ("resnet50.tv_in1k", True)  # our short name has its tag


def test_a_stand_in_keeps_its_own_names(tmp_path):
    encoder = create_pyramid("hlg_mobile", encoder_args=HLG)
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    again = create_pyramid("hlg_mobile", encoder_args=HLG)
    assert load_encoder(again, tmp_path / "encoder.pth").missing == []
    assert isinstance(again, nn.Module)
