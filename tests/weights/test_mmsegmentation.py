"""mmsegmentation's SETR checkpoints, written here in its naming, against a forward written out on those names."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.models.catalog import create_model
from densevit.weights.load import load_encoder, load_segmenter

K, C, D, A = 5, 48, 16, 3
SMALL = {"depth": 12, "embed_dim": C, "num_heads": A}


def create(name, **arguments):
    return create_model(name, num_classes=K, image_size=64, channels=D, encoder_args=SMALL, **arguments).eval()


def randomise(module):
    """Every tensor drawn, statistics of norms too."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.2)
    return module.eval()


class ConvModule(nn.Module):
    def __init__(self, into, out, k):
        super().__init__()
        self.conv = nn.Conv2d(into, out, k, padding=k // 2, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(C, eps=1e-6), nn.LayerNorm(C, eps=1e-6)
        self.attn = nn.Module()
        self.attn.attn = nn.MultiheadAttention(C, A, batch_first=True)
        self.ffn = nn.Module()
        self.ffn.layers = nn.Sequential(nn.Sequential(nn.Linear(C, 4 * C), nn.GELU()), nn.Linear(4 * C, C))

    def forward(self, x):
        y = self.ln1(x)
        x = x + self.attn.attn(y, y, y)[0]
        return x + self.ffn.layers(self.ln2(x))


class Backbone(nn.Module):
    def __init__(self, *, with_cls_token, patch_bias):
        super().__init__()
        self.with_cls_token = with_cls_token
        self.patch_embed = nn.Module()
        self.patch_embed.projection = nn.Conv2d(3, C, 16, stride=16, bias=patch_bias)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, C))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, C))
        self.layers = nn.ModuleList(Layer() for _ in range(12))

    def forward(self, images):
        x = self.patch_embed.projection(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        x = x if self.with_cls_token else x[:, 1:]
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x[:, -16:].transpose(1, 2).unflatten(2, (4, 4)))
        return maps


def layer_norm(norm, x):
    return norm(x.movedim(1, -1)).movedim(-1, 1)


class UpHead(nn.Module):
    def __init__(self, num_convs, k, factor):
        super().__init__()
        self.norm, self.factor = nn.LayerNorm(C, eps=1e-6), factor
        self.up_convs = nn.ModuleList(nn.Sequential(ConvModule(D if i else C, D, k)) for i in range(num_convs))
        self.conv_seg = nn.Conv2d(D, K, 1)

    def forward(self, x):
        x = layer_norm(self.norm, x)
        for conv in self.up_convs:
            x = F.interpolate(conv(x), scale_factor=self.factor, mode="bilinear")
        return F.interpolate(self.conv_seg(x), size=(64, 64), mode="bilinear")


class MLANeck(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.ModuleList(nn.LayerNorm(C, eps=1e-6) for _ in range(4))
        self.mla = nn.Module()
        self.mla.channel_proj = nn.ModuleList(ConvModule(C, D, 1) for _ in range(4))
        self.mla.feat_extract = nn.ModuleList(ConvModule(D, D, 3) for _ in range(4))

    def forward(self, maps):
        levels = [p(layer_norm(n, x)) for p, n, x in zip(self.mla.channel_proj, self.norm, maps, strict=True)]
        outs, total = [], 0
        for level, conv in zip(reversed(levels), self.mla.feat_extract, strict=True):  # deepest first
            total = total + level
            outs.append(conv(total))
        return outs


class MLAHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.up_convs = nn.ModuleList(
            nn.Sequential(ConvModule(D, D // 2, 3), ConvModule(D // 2, D // 2, 3)) for _ in range(4)
        )
        self.conv_seg = nn.Conv2d(2 * D, K, 1)

    def forward(self, maps):
        up = [F.interpolate(c(x), scale_factor=4, mode="bilinear") for c, x in zip(self.up_convs, maps, strict=True)]
        return F.interpolate(self.conv_seg(torch.cat(up, dim=1)), size=(64, 64), mode="bilinear")


class FCNHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_seg = nn.Conv2d(D, K, 1)


def save(model, path):
    torch.save({"meta": {"iter": 1}, "state_dict": model.state_dict()}, path)
    return path


def foreign(decode_head, *, auxiliary=(), neck=None, with_cls_token=True, patch_bias=True):
    model = nn.Module()
    model.backbone = Backbone(with_cls_token=with_cls_token, patch_bias=patch_bias)
    if neck is not None:
        model.neck = neck
    model.decode_head = decode_head
    model.auxiliary_head = nn.ModuleList(auxiliary)
    return randomise(model)


@torch.no_grad()
def test_pup(tmp_path):
    theirs = foreign(UpHead(4, 3, 2), auxiliary=[UpHead(1, 3, 4) for _ in range(4)])
    ours = create("setr_pup_vit_base")
    report = load_segmenter(ours, save(theirs, tmp_path / "pup.pth"))
    images = torch.randn(2, 3, 64, 64)
    maps = theirs.backbone(images)
    torch.testing.assert_close(ours(images), theirs.decode_head(maps[-1]), rtol=1e-4, atol=1e-4)
    assert (report.missing, report.unexpected, report.resized) == ([], [], [])
    aux = ours.auxiliary_heads[1](ours.features(images))
    head = theirs.auxiliary_head[1]
    expected = head.conv_seg(head.up_convs[0](layer_norm(head.norm, maps[7])))
    torch.testing.assert_close(aux, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("aux_convs", [1, 2])
def test_naive(tmp_path, aux_convs):
    theirs = foreign(UpHead(1, 1, 4), auxiliary=[UpHead(aux_convs, 1, 4) for _ in range(3)])
    ours = create("setr_naive_vit_base")
    report = load_segmenter(ours, save(theirs, tmp_path / "naive.pth"))
    images = torch.randn(2, 3, 64, 64)
    x = theirs.backbone(images)[-1]
    head = theirs.decode_head
    expected = head.conv_seg(head.up_convs[0](layer_norm(head.norm, x)))
    torch.testing.assert_close(ours.decoder(ours.features(images)), expected, rtol=1e-4, atol=1e-4)
    if aux_convs == 2:  # ADE20K's auxiliary heads have one conv more: left out whole, and said so
        assert all(name.startswith("auxiliary_heads.") for name in report.missing)
        assert "auxiliary_head.0.up_convs.0.0.conv.weight" in report.unexpected
    else:
        assert (report.missing, report.unexpected) == ([], [])


@torch.no_grad()
def test_mla_levels_are_turned_round(tmp_path):
    theirs = foreign(MLAHead(), neck=MLANeck(), auxiliary=[FCNHead() for _ in range(4)], with_cls_token=False)
    ours = create("setr_mla_vit_base", decoder_args={"align_corners": False})
    report = load_segmenter(ours, save(theirs, tmp_path / "mla.pth"))
    images = torch.randn(2, 3, 64, 64)
    maps = theirs.backbone(images)
    levels = theirs.neck([maps[i] for i in (2, 5, 8, 11)])
    torch.testing.assert_close(ours(images), theirs.decode_head(levels), rtol=1e-4, atol=1e-4)
    assert report.missing == []
    assert report.unexpected == [f"auxiliary_head.{i}.conv_seg.bias" for i in range(4)]
    for i, head in enumerate(ours.auxiliary_heads):
        expected = F.conv2d(levels[3 - i], theirs.auxiliary_head[3 - i].conv_seg.weight)
        torch.testing.assert_close(head(ours.features(images)), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("patch_bias", [True, False])
def test_encoder_alone_with_and_without_the_patches_bias(tmp_path, patch_bias):
    theirs = foreign(UpHead(1, 1, 4), patch_bias=patch_bias)
    ours = create("setr_pup_vit_base")
    load_encoder(ours, save(theirs, tmp_path / "naive.pth"))
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours.encoder(images)[-1], theirs.backbone(images)[-1], rtol=1e-4, atol=1e-4)
