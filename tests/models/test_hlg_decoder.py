"""SETR-PUP-HLG's decoder: which cells a layer mixes, sizes of the logits, the text's reading, bad arguments."""

import pytest
import torch

from densevit.errors import UserError
from densevit.models.hlg_decoder import HLGDecoder, LocalLayer
from densevit.models.hlg_layer import HLGLayer

CHANNELS = (4, 6, 8, 10)
SMALL = {"channels": 16, "num_heads": 4}


def maps(batch=2, size=(16, 24)):
    return [torch.randn(batch, c, size[0] >> i, size[1] >> i) for i, c in enumerate(CHANNELS)]


def reached(dilation, *, cell=(3, 5), size=(8, 12), window_size=4):
    """Where a change of one cell arrives after one layer: (H, W), true or false."""
    torch.manual_seed(0)
    layer = LocalLayer(8, num_heads=2, window_size=window_size, dilation=dilation, mlp_ratio=2.0).double()
    x = torch.randn(1, *size, 8, dtype=torch.double)
    changed = x.clone()
    changed[0, cell[0], cell[1]] += torch.randn(8, dtype=torch.double)
    with torch.no_grad():
        return (layer(changed) - layer(x)).abs().amax(dim=(0, 3)) > 1e-12


def test_a_plain_window_keeps_to_itself():
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[0:4, 4:8] = True
    assert torch.equal(reached(1), expected)


def test_a_dilated_window_spans_the_map():
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[1::2, 2::3] = True  # every (8 / 4)th row and (12 / 4)th column
    assert torch.equal(reached("span"), expected)


def test_a_fixed_dilation_is_taken_as_it_is():
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[1::2, 1:8:2] = True
    assert torch.equal(reached(2), expected)


def test_two_layers_plain_then_dilated():
    decoder = HLGDecoder(CHANNELS, 3, **SMALL)
    assert [layer.attn.dilation for layer in decoder.layers] == [1, "span"]
    assert [layer.attn.window_size for layer in decoder.layers] == [8, 8]
    decoder = HLGDecoder(CHANNELS, 3, **SMALL, num_layers=3, dilation=8)
    assert [layer.attn.dilation for layer in decoder.layers] == [1, 8, 1]


@pytest.mark.parametrize(("fuse_stride", "size"), [(4, (16, 24)), (16, (32, 48))])
@pytest.mark.parametrize("layers", ["local", "hlg"])
def test_logits_and_gradients(fuse_stride, size, layers):
    decoder = HLGDecoder(CHANNELS, 3, **SMALL, fuse_stride=fuse_stride, layers=layers, pup_channels=8)
    logits = decoder(maps())
    assert logits.shape == (2, 3, *size)
    logits.square().mean().backward()
    assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []
    assert isinstance(decoder.layers[0], HLGLayer if layers == "hlg" else LocalLayer)


def test_odd_sizes_and_inference_leave_the_maps_alone():
    decoder = HLGDecoder(CHANNELS, 3, **SMALL, layers="hlg").eval()
    inputs = maps(1, (9, 13))
    before = [x.clone() for x in inputs]
    with torch.no_grad():
        assert decoder(inputs).shape == (1, 3, 9, 13)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fuse_stride": 8}, r"fuse_stride must be 4 \(the paper's tables\) or 16 \(its text\), not 8"),
        ({"layers": "global"}, "unknown layers of the HLG decoder 'global'"),
        ({"num_heads": 3}, "channels 16 must be a multiple of num_heads 3"),
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1, not 0"),
        ({"window_size": 0}, "window_size must be a whole number of at least 1, not 0"),
        ({"dilation": 0}, "dilation must be 'span' or a whole number of at least 1, not 0"),
        ({"dilation": "wide"}, "not 'wide'"),
        ({"dilation": True}, "not True"),
        ({"mlp_ratio": -1}, "mlp_ratio must be a number above 0, not -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        HLGDecoder(CHANNELS, 3, **SMALL | arguments)
