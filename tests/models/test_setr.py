"""SETR's decoders by hand: MLA's sums, PUP's upsampling, the classifier's place, auxiliary blocks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from densevit.errors import UserError
from densevit.models.catalog import create_model
from densevit.models.layers import conv_norm_relu, make_norm
from densevit.models.setr import (
    AuxiliaryHead,
    MLADecoder,
    MLANeck,
    NaiveDecoder,
    PUPDecoder,
    auxiliary_blocks,
    mla_blocks,
)


def randomise_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias)
    return model


def test_mla_sums_by_hand():
    neck = MLANeck(1, num_streams=4, channels=1).eval()
    neck.norms = nn.ModuleList(nn.Identity() for _ in range(4))
    neck.reduce = nn.ModuleList(nn.Identity() for _ in range(4))
    neck.refine = nn.ModuleList(nn.Identity() for _ in range(4))
    maps = [torch.full((1, 1, 2, 3), float(value)) for value in (1, 10, 100, 1000)]
    sums = [stream.unique().item() for stream in neck(maps)]
    assert sums == [1111, 1110, 1100, 1000]  # Z^6 receives every deeper level, Z^24 none
    assert maps[0].unique().item() == 1  # the encoder's maps are left alone


def test_mla_neck_layer_by_layer():
    neck = randomise_norms(MLANeck(6, num_streams=2, channels=4)).eval()
    shallow, deep = torch.randn(2, 1, 6, 3, 5).unbind()

    def reduce(i, x):
        normed = F.layer_norm(x.permute(0, 2, 3, 1), (6,), neck.norms[i].weight, neck.norms[i].bias, 1e-6)
        conv, norm, _ = neck.reduce[i]
        return norm(F.conv2d(normed.permute(0, 3, 1, 2), conv.weight)).relu()

    def refine(i, x):
        conv, norm, _ = neck.refine[i]
        return norm(F.conv2d(x, conv.weight, padding=1)).relu()

    low = reduce(1, deep)
    with torch.no_grad():
        ours = neck([shallow, deep])
        torch.testing.assert_close(ours[1], refine(1, low))
        torch.testing.assert_close(ours[0], refine(0, reduce(0, shallow) + low))


def test_mla_decoder_concatenates_streams_in_order_after_4x():
    decoder = MLADecoder(1, 2, num_streams=2, channels=1, align_corners=False).eval()
    decoder.streams = nn.ModuleList([nn.Identity(), nn.Identity()])
    with torch.no_grad():
        decoder.classifier.weight.copy_(torch.eye(2).reshape(2, 2, 1, 1))
        decoder.classifier.bias.zero_()
    maps = [torch.randn(1, 1, 2, 3), torch.randn(1, 1, 2, 3)]
    logits = decoder(maps)
    expected = F.interpolate(torch.cat(maps, dim=1), scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, expected)
    decoder.align_corners = True
    assert torch.equal(decoder(maps)[0, 0, 0, 0], maps[0][0, 0, 0, 0])  # corners stay corners


def test_mla_classifier_sizes():
    assert MLADecoder(256, 19).classifier.weight.shape == (19, 512, 1, 1)
    assert MLADecoder(256, 19, classifier_kernel_size=3).classifier.weight.shape == (19, 512, 3, 3)


@pytest.mark.parametrize(("num_upsamplings", "factor"), [(4, 2), (2, 4)])
def test_pup_is_the_papers_chain_with_its_classifier_last(num_upsamplings, factor):
    """[conv, norm, ReLU, upsampling] x n, then the classifier: what the paper draws, at full resolution."""
    decoder = randomise_norms(PUPDecoder(6, 3, channels=4, num_upsamplings=num_upsamplings)).eval()
    assert len(decoder.convs) == num_upsamplings
    maps = torch.randn(2, 6, 2, 3)
    x = decoder.norm(maps)
    for conv in decoder.convs:
        x = F.interpolate(conv(x), scale_factor=factor, mode="bilinear", align_corners=False)
    last = decoder.classifier(x)
    assert last.shape == (2, 3, 32, 48)
    logits = decoder([maps])
    assert logits.shape == (2, 3, 32 // factor, 48 // factor)
    up = F.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up, last, rtol=1e-5, atol=1e-5)


def test_pup_upsampling_by_hand():
    decoder = PUPDecoder(1, 1, channels=1, num_upsamplings=2).eval()
    decoder.norm = nn.Identity()
    decoder.convs = nn.ModuleList([nn.Identity(), nn.Identity()])
    nn.init.ones_(decoder.classifier.weight)
    nn.init.zeros_(decoder.classifier.bias)
    row = torch.tensor([0.0, 8.0]).reshape(1, 1, 1, 2)
    # 4x: the centres of new pixels lie at (i + 0.5) / 4 - 0.5 of the old, clamped to the border
    assert decoder([row])[0, 0, 0].tolist() == [0, 0, 1, 3, 5, 7, 8, 8]


def test_naive_is_its_chain_with_its_classifier_last():
    decoder = randomise_norms(NaiveDecoder(6, 3, channels=4)).eval()
    maps = [torch.randn(1, 6, 1, 1), torch.randn(2, 6, 2, 3)]
    x = decoder.conv(decoder.norm(maps[-1]))
    last = decoder.classifier(F.interpolate(x, scale_factor=16, mode="bilinear", align_corners=False))
    up = F.interpolate(decoder(maps), scale_factor=16, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up, last, rtol=1e-5, atol=1e-5)


def test_auxiliary_head_reads_its_map():
    head = AuxiliaryHead(6, 3, in_index=1, kernel_size=3, channels=4).eval()
    maps = [torch.randn(1, 6, 2, 3) for _ in range(3)]
    assert torch.equal(head(maps), head([None, maps[1], None]))
    assert head(maps).shape == (1, 3, 2, 3)
    assert head.conv[0].weight.shape == (4, 6, 3, 3)


@pytest.mark.parametrize(
    ("decoder", "depth", "blocks"),
    [
        ("naive", 24, (10, 15, 20)),
        ("pup", 24, (10, 15, 20, 24)),
        ("naive", 12, (3, 6, 9)),
        ("pup", 12, (5, 8, 10, 12)),
        ("naive", 4, (1, 2, 3)),
        ("pup", 6, (3, 4, 5, 6)),
        ("pup", 2, (1, 2)),  # 0.83, 1.33, 1.67, 2 rounded, each block once
        ("naive", 40, (17, 25, 33)),
    ],
)
def test_auxiliary_blocks(decoder, depth, blocks):
    assert auxiliary_blocks(decoder, depth) == blocks


def test_mla_blocks():
    assert mla_blocks(24) == (6, 12, 18, 24)
    assert mla_blocks(12) == (3, 6, 9, 12)
    assert mla_blocks(6) == (1, 3, 4, 6)
    with pytest.raises(UserError, match="at least 4 blocks, the encoder has 3"):
        mla_blocks(3)


@pytest.mark.parametrize(
    ("name", "out_blocks", "aux_inputs", "aux_kernel"),
    [
        ("setr_naive_vit_large", (10, 15, 20, 24), [0, 1, 2], 1),
        ("setr_pup_vit_large", (10, 15, 20, 24), [0, 1, 2, 3], 3),
        ("setr_mla_vit_large", (6, 12, 18, 24), [0, 1, 2, 3], None),
        ("setr_naive_deit_base", (3, 6, 9, 12), [0, 1, 2], 1),
        ("setr_pup_deit_base", (5, 8, 10, 12), [0, 1, 2, 3], 3),
    ],
)
def test_auxiliary_heads_sit_at_the_papers_blocks(name, out_blocks, aux_inputs, aux_kernel):
    with torch.device("meta"):
        model = create_model(name, num_classes=19)
        without = create_model(name, num_classes=19, auxiliary=False)
    assert model.encoder.out_blocks == out_blocks
    assert [head.in_index for head in model.auxiliary_heads] == aux_inputs
    assert len(without.auxiliary_heads) == 0
    for head in model.auxiliary_heads:
        if aux_kernel is None:
            assert head.weight.shape == (19, 256, 1, 1)
            assert head.bias is None
        else:
            assert head.conv[0].kernel_size == (aux_kernel, aux_kernel)


def test_norms():
    assert make_norm("group", 256).num_groups == 32
    assert make_norm("group", 48).num_groups == 4  # 12 channels each; 16 and 8 groups would have fewer than 8
    assert make_norm("group", 7).num_groups == 1
    assert isinstance(make_norm("sync", 8), nn.SyncBatchNorm)
    with pytest.raises(UserError, match="did you mean 'batch'"):
        make_norm("bach", 8)
    block = conv_norm_relu(3, 8, kernel_size=3)
    assert block[0].bias is None
    assert block(torch.randn(2, 3, 5, 7)).shape == (2, 8, 5, 7)


def test_decoder_arguments_are_checked():
    small = {"num_classes": 3, "encoder_args": {"depth": 4, "embed_dim": 24, "num_heads": 2}}
    with pytest.raises(UserError, match=r"num_upsamplings must be 4 .* not 3"):
        create_model("setr_pup_vit_tiny", decoder_args={"num_upsamplings": 3}, **small)
    with pytest.raises(UserError, match="did you mean 'num_upsamplings'"):
        create_model("setr_pup_vit_tiny", decoder_args={"num_upsampling": 2}, **small)
    with pytest.raises(UserError, match="'num_upsamplings'; choose one of: align_corners, classifier_kernel_size"):
        create_model("setr_mla_vit_tiny", decoder_args={"num_upsamplings": 2}, **small)
