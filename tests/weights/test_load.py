"""Our own files, what is refused, what a refusal leaves behind, and the report's words."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.models.segmenter import Segmenter
from densevit.weights.load import load_encoder, load_segmenter
from densevit.weights.report import LoadReport

SMALL = {"depth": 4, "embed_dim": 24, "num_heads": 2}


def create(name="setr_pup_vit_tiny", *, num_classes=5, image_size=(32, 80), **arguments):
    arguments = {"channels": 8, "encoder_args": SMALL} | arguments
    return create_model(name, num_classes=num_classes, image_size=image_size, **arguments).eval()


def assert_same_output(a, b):
    images = torch.randn(1, 3, 40, 70)
    with torch.no_grad():
        assert torch.equal(a(images), b(images))


def save(model, path, *, prefix="", extra=None):
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state | (extra or {})}, path)
    return path


@pytest.mark.parametrize("name", ["setr_pup_vit_tiny", "setr_mla_deit_tiny", "setr_naive_beit_base"])
def test_our_own_segmenter(tmp_path, name):
    theirs, ours = create(name), create(name)
    report = load_segmenter(ours, save(theirs, tmp_path / "ours.pth"))
    assert_same_output(ours, theirs)
    assert (report.missing, report.resized, report.unexpected) == ([], [], [])


def test_our_own_segmenter_from_lightning_and_safetensors(tmp_path):
    theirs, ours = create(), create()
    extra = {"criterion.weight": torch.ones(5)}
    report = load_segmenter(ours, save(theirs, tmp_path / "last.ckpt", prefix="model.", extra=extra))
    assert_same_output(ours, theirs)
    assert report.unexpected == ["criterion.weight"]
    ours = create()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    load_segmenter(ours, tmp_path / "model.safetensors")
    assert_same_output(ours, theirs)


def test_our_own_positions_are_resized(tmp_path):
    theirs, ours = create(image_size=64), create(image_size=(32, 80))
    report = load_segmenter(ours, save(theirs, tmp_path / "ours.pth"))
    assert report.resized == ["encoder.vit.pos_embed (1, 17, 24) -> (1, 11, 24)"]
    with pytest.raises(UserError, match="neither a square grid nor the encoder's 4x4"):
        load_segmenter(theirs, save(ours, tmp_path / "ours.pth"))


def test_own_grid_goes_before_a_square_one_in_our_own_files(tmp_path):
    theirs, ours = create(image_size=(32, 128)), create(image_size=(32, 128))  # 2 x 8 patches, as many as 4 x 4
    assert load_segmenter(ours, save(theirs, tmp_path / "ours.pth")).resized == []
    assert torch.equal(ours.encoder.vit.pos_embed, theirs.encoder.vit.pos_embed)


def test_auxiliary_heads_may_be_absent_or_superfluous(tmp_path):
    with_heads, without = create(), create(auxiliary=False)
    report = load_segmenter(with_heads, save(without, tmp_path / "without.pth"))
    assert report.missing
    assert all(name.startswith("auxiliary_heads.") for name in report.missing)
    report = load_segmenter(without, save(create(), tmp_path / "with.pth"))
    assert report.missing == []
    assert all(name.startswith("auxiliary_heads.") for name in report.unexpected)


def test_encoder_from_our_own_segmenter_of_another_decoder(tmp_path):
    theirs, ours = create("setr_naive_vit_tiny", num_classes=9), create("setr_pup_vit_tiny")
    report = load_encoder(ours, save(theirs, tmp_path / "ours.pth"))
    assert torch.equal(ours.encoder.vit.blocks[3].mlp.fc1.weight, theirs.encoder.vit.blocks[3].mlp.fc1.weight)
    assert "decoder.classifier.weight" in report.unexpected


class Convolutions(nn.Module):
    """A stand-in for an encoder that is no ViT."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        return [self.norm(self.stem(images))]


def test_an_encoder_that_is_no_vit_takes_its_own_names(tmp_path):
    theirs = Convolutions()
    torch.save(theirs.state_dict() | {"head.weight": torch.zeros(3, 4)}, tmp_path / "classifier.pth")
    ours = Segmenter(Convolutions(), nn.Identity(), num_classes=4, size_multiple=(4, 4))
    report = load_encoder(ours, tmp_path / "classifier.pth")
    assert torch.equal(ours.encoder.stem.weight, theirs.stem.weight)
    assert report.unexpected == ["head.weight"]


def refused(load, model, path, message, **arguments):
    """The call is refused in one sentence, and the model is as before."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message) as caught:
        load(model, path, **arguments)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_too_little_of_an_encoder_is_refused(tmp_path):
    state = create().encoder.vit.state_dict()
    part = {name: tensor for name, tensor in state.items() if "blocks.3." not in name}
    torch.save(part, tmp_path / "part.pth")
    refused(load_encoder, create(), tmp_path / "part.pth", r"has only 40 of the encoder's 52 tensors \(85% of its")
    report = load_encoder(create(), tmp_path / "part.pth", min_matched=0.7)
    assert len(report.missing) == 12


def test_other_names_are_refused(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.pth")
    refused(load_encoder, create(), tmp_path / "resnet.pth", "has only 0 of the encoder's 52 tensors")
    refused(load_segmenter, create(), tmp_path / "resnet.pth", "is no segmenter of .* it holds conv1.weight")


def test_another_architecture_is_refused(tmp_path):
    path = save(create(encoder_args=SMALL | {"embed_dim": 48}), tmp_path / "wide.pth")
    message = r"another architecture: encoder.vit.cls_token is \(1, 1, 48\) there and \(1, 1, 24\) in the model"
    refused(load_segmenter, create(), path, message)
    refused(load_encoder, create(), path, "another architecture")
    refused(load_encoder, create(image_size=64), path, "another architecture")
    refused(load_segmenter, create(), save(create("setr_mla_vit_tiny"), tmp_path / "mla.pth"), "lacks .* tensors")


def test_another_class_count_or_classifier_is_refused_with_the_fix(tmp_path):
    path = save(create(num_classes=9), tmp_path / "nine.pth")
    refused(load_segmenter, create(), path, "has 9 classes, the model 5; build it with num_classes=9")
    path = save(create("setr_mla_vit_tiny", decoder_args={"classifier_kernel_size": 3}), tmp_path / "mla.pth")
    refused(load_segmenter, create("setr_mla_vit_tiny"), path, "3x3 classifier.*'classifier_kernel_size': 3")


def test_mode_is_checked(tmp_path):
    path = save(create(), tmp_path / "ours.pth")
    refused(load_encoder, create(), path, "did you mean 'bicubic'", mode="cubic")


def test_report_in_words():
    report = LoadReport(
        source="vit.npz (original ViT)",
        matched=[f"block.{i}" for i in range(150)],
        resized=["vit.pos_embed (1, 577, 768) -> (1, 1025, 768)"],
        missing=["vit.dist_token"],
        unexpected=[f"head.{i}" for i in range(9)],
    )
    assert str(report).splitlines() == [
        "weights from vit.npz (original ViT): 150 matched, 1 resized",
        "  resized: vit.pos_embed (1, 577, 768) -> (1, 1025, 768)",
        "  1 missing (left as they were): vit.dist_token",
        "  9 not used: head.0, head.1, head.2, head.3, head.4, head.5, ... and 3 more",
    ]
