"""UperNet, Semantic FPN and FCN: what reaches what, sizes, and parts worked out by hand."""

import pytest
import torch
from torch import nn

from densevit.errors import UserError
from densevit.models.fcn import FCNHead
from densevit.models.semantic_fpn import SemanticFPNDecoder
from densevit.models.upernet import PyramidPooling, UperNetDecoder

CHANNELS = (4, 6, 8, 10)
DECODERS = {
    "upernet": lambda: UperNetDecoder(CHANNELS, 3, channels=8),
    "semantic_fpn": lambda: SemanticFPNDecoder(CHANNELS, 3, channels=8, branch_channels=6),
}


def maps(batch=2, size=(16, 24)):
    return [torch.randn(batch, c, -(-size[0] // 2**i), -(-size[1] // 2**i)) for i, c in enumerate(CHANNELS)]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("size", [(16, 24), (13, 25)])
def test_logits_have_the_size_of_the_finest_map(name, size):
    decoder = DECODERS[name]()
    inputs = maps(size=size)
    before = [x.clone() for x in inputs]
    logits = decoder(inputs)
    assert logits.shape == (2, 3, *size)
    logits.square().mean().backward()
    assert [key for key, parameter in decoder.named_parameters() if parameter.grad is None] == []
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("level", range(4))
def test_every_level_reaches_the_logits(name, level):
    torch.manual_seed(0)
    decoder = DECODERS[name]().eval()
    inputs = maps(1)
    with torch.no_grad():
        before = decoder(inputs)
        inputs[level] = inputs[level] + 1
        assert not torch.allclose(decoder(inputs), before)


def test_branches_of_semantic_fpn_double_the_map_at_each_convolution():
    decoder = SemanticFPNDecoder(CHANNELS, 3, channels=8, branch_channels=6)
    assert [len(branch) for branch in decoder.branches] == [1, 1, 2, 3]
    assert [branch[0][0].in_channels for branch in decoder.branches] == [8] * 4
    assert decoder.classifier.in_channels == 6


def identity_convs(module):
    """Make every convolution with a norm pass its first channels on: 1x1 in the kernel's middle, no bias."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            middle = conv.kernel_size[0] // 2
            nn.init.zeros_(conv.weight)
            for channel in range(min(conv.weight.shape[:2])):
                conv.weight.data[channel, channel, middle, middle] = 1
    return module.eval()


def test_pooling_by_hand():
    """One bin: the image's mean beside the map; the fusing convolution here adds the two."""
    pooling = identity_convs(PyramidPooling(1, 1, bins=(1,), norm="batch"))
    pooling.fuse[0].weight.data[0, :, 1, 1] = 1
    x = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    torch.testing.assert_close(pooling(x), x + 3, rtol=1e-4, atol=1e-4)


def test_top_down_sums_by_hand():
    """Constant levels 1, 2, 4, 8 with identity convolutions: sums from the top are 15, 14, 12 and 8."""
    decoder = identity_convs(UperNetDecoder((1, 1, 1, 1), 4, channels=1, bins=(1,)))
    decoder.pooling.fuse[0].weight.data[0, 1] = 0  # the pooled mean is left out
    seen = []
    decoder.fuse.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    decoder([torch.full((1, 1, 16 >> i, 24 >> i), 2.0**i) for i in range(4)])
    torch.testing.assert_close(seen[0][0, :, 5, 7], torch.tensor([15.0, 14.0, 12.0, 8.0]), rtol=1e-4, atol=1e-3)


def test_batch_norm_cannot_pool_one_image():
    with pytest.raises(UserError, match=r"batch_size of at least 2 on each device, or .*norm=group"):
        DECODERS["upernet"]()(maps(1))
    assert UperNetDecoder(CHANNELS, 3, channels=8, norm="group")(maps(1)).shape == (1, 3, 16, 24)


def test_fcn_reads_its_own_map_and_its_input_again():
    head = FCNHead(CHANNELS, 3, channels=8)
    assert [conv[0].in_channels for conv in (*head.convs, head.merge)] == [10, 8, 18]
    assert head(maps()).shape == (2, 3, 2, 3)
    auxiliary = FCNHead(CHANNELS, 3, in_index=-2, channels=5, num_convs=1, concat_input=False)
    assert auxiliary.merge is None
    inputs = maps()
    auxiliary(inputs).sum().backward()
    assert auxiliary(inputs).shape == (2, 3, 4, 6)
    assert {key.split(".")[0] for key, _ in auxiliary.named_parameters()} == {"convs", "classifier"}
    with pytest.raises(UserError, match="num_convs must be at least 1, not 0"):
        FCNHead(CHANNELS, 3, num_convs=0)


@pytest.mark.parametrize("bins", [3, [], "12", [0], [1, 2.5]])
def test_bins_of_upernet(bins):
    with pytest.raises(UserError, match="bins"):
        UperNetDecoder((8, 8, 8, 8), 3, channels=8, bins=bins)
