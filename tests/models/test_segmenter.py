"""Segmenter: any size, labels registered to the pixel, norms, saving, compiling, exporting."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.models.segmenter import Segmenter

SMALL = {"image_size": (64, 96), "channels": 16, "encoder_args": {"depth": 4, "embed_dim": 48, "num_heads": 3}}
NAMES = ["setr_naive_vit_tiny", "setr_pup_deit_tiny", "setr_mla_vit_tiny", "setr_pup_beit_base"]


def build(name, **arguments):
    return create_model(name, num_classes=5, **SMALL | arguments)


class PatchMeans(nn.Module):
    """A stand-in encoder: the mean intensity of every patch, in list form."""

    def __init__(self, patch):
        super().__init__()
        self.patch = patch

    def forward(self, images):
        return [F.avg_pool2d(images.mean(dim=1, keepdim=True), self.patch)]


class Threshold(nn.Module):
    """A stand-in decoder: class 1 where the intensity is above a half."""

    def forward(self, maps):
        return torch.cat([0.5 - maps[-1], maps[-1] - 0.5], dim=1)


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("size", [(500, 500), (200, 333), (512, 512)])
@pytest.mark.parametrize("num_patches", [1, 7, 20])
def test_an_edge_comes_out_where_it_is(patch, size, num_patches):
    (H, W), edge = size, num_patches * patch
    model = Segmenter(PatchMeans(patch), Threshold(), num_classes=2, size_multiple=(patch, patch))
    images = torch.zeros(1, 3, H, W)
    images[..., edge:] = 1
    labels = model(images).argmax(dim=1)
    assert labels.shape == (1, H, W)
    rows, columns = H // patch * patch - patch // 2, W // patch * patch - patch // 2  # beyond, padding darkens
    assert torch.equal(labels[0, :rows, :columns], images[0, 0, :rows, :columns].long())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(200, 333), (64, 96), (7, 11), (1, 50)])
def test_logits_have_the_images_size(name, size):
    model = build(name).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("name", NAMES)
def test_training_step_reaches_every_trainable_parameter(name):
    model = build(name).train()
    outputs = model.forward_all(torch.randn(2, 3, 40, 70))
    assert len(outputs) == 1 + len(model.auxiliary_heads) > 1
    assert {tuple(logits.shape) for logits in outputs} == {(2, 5, 40, 70)}
    sum(logits.square().mean() for logits in outputs).backward()
    unreached = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []


def test_forward_is_the_first_of_forward_all():
    model = build("setr_pup_vit_tiny").eval()
    images = torch.randn(1, 3, 50, 70)
    with torch.no_grad():
        assert torch.equal(model(images), model.forward_all(images)[0])


def test_padding_is_zeros_on_the_right_and_below():
    model = build("setr_naive_vit_tiny").eval()
    images = torch.randn(1, 3, 50, 70)
    padded = torch.zeros(1, 3, 64, 80)
    padded[..., :50, :70] = images
    with torch.no_grad():
        torch.testing.assert_close(model(images), model(padded)[..., :50, :70])


@pytest.mark.parametrize("norm", ["batch", "sync", "group"])
@pytest.mark.parametrize("name", ["setr_pup_vit_tiny", "setr_mla_vit_tiny"])
def test_norms_train_on_one_cpu_and_agree_on_parameters(name, norm):
    model = build(name, norm=norm).train()
    loss = sum(logits.square().mean() for logits in model.forward_all(torch.randn(2, 3, 33, 50)))
    loss.backward()
    kinds = {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__}
    assert {"batch": "BatchNorm2d", "sync": "SyncBatchNorm", "group": "GroupNorm"}[norm] in kinds
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in build(name).named_parameters()]


def test_batch_norm_converts_to_sync_and_keeps_its_weights():
    model = build("setr_pup_vit_tiny").eval()
    images = torch.randn(2, 3, 33, 50)
    with torch.no_grad():
        before = model(images)
        synced = nn.SyncBatchNorm.convert_sync_batchnorm(model).eval()
        torch.testing.assert_close(synced(images), before)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name, tmp_path):
    model = build(name).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other = build(name).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    images = torch.randn(1, 3, 40, 70)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_graph_breaks(name):
    model = build(name).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = torch.randn(1, 3, 40, 70)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize("name", NAMES)
def test_exports(name):
    model = build(name).eval()
    images = torch.randn(1, 3, 40, 70)
    program = torch.export.export(model, (images,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))


def test_exports_with_any_batch():
    model = build("setr_pup_vit_tiny").eval()
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(model, (torch.randn(2, 3, 40, 70),), dynamic_shapes=({0: batch},))
    images = torch.randn(5, 3, 40, 70)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))


@pytest.mark.parametrize(("name", "depth"), [("setr_mla_vit_tiny", 4), ("setr_pup_beit_base", 1)])
def test_exports_with_any_multiple_of_the_patch(name, depth):
    model = build(name, encoder_args={"depth": depth, "embed_dim": 24, "num_heads": 2}, auxiliary=False).eval()
    rows, columns = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("columns", min=2, max=64)
    dynamic = ({2: 16 * rows, 3: 16 * columns},)
    program = torch.export.export(model, (torch.randn(1, 3, 80, 112),), dynamic_shapes=dynamic)
    for size in ((64, 96), (48, 160)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 4, 32, 32)])
def test_wrong_inputs_are_refused(shape):
    with pytest.raises(UserError, match=r"images must be \(B, 3, H, W\)"):
        build("setr_naive_vit_tiny")(torch.randn(*shape))


def test_four_bands():
    model = build("setr_naive_vit_tiny", in_channels=4).eval()
    assert model(torch.randn(1, 4, 30, 50)).shape == (1, 5, 30, 50)
