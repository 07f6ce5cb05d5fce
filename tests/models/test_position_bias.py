"""Position bias: a function of the offset alone, and the table gives it to every pair."""

import copy

import pytest
import torch

from densevit.models.position_bias import (
    DynamicPositionBias,
    _kept_axis_offsets,
    axis_offsets,
    crop_window_bias,
    gather_bias,
    window_bias,
)


@pytest.fixture
def bias():
    torch.manual_seed(0)
    return DynamicPositionBias(64, num_heads=3).double()


def direct(bias, offset_y, offset_x):
    """The MLP on one offset, without any table."""
    return bias.rest(bias.first(torch.tensor([offset_y, offset_x], dtype=torch.float64)))


@pytest.mark.parametrize("centers", [([6, 20], [0, 2, 5]), ([7], [6, 7, 20]), ([0, 2, 4], [0, 2])])
def test_every_pair_reads_the_bias_of_its_own_offset(bias, centers):
    y, x = axis_offsets(3, centers[0]), axis_offsets(5, centers[1])
    full = gather_bias(bias(y.values, x.values), y.index, x.index)[0]
    queries = [(row, column) for row in range(3) for column in range(5)]
    keys = [(row / 2, column / 2) for row in centers[0] for column in centers[1]]
    assert full.shape == (3, len(queries), len(keys))
    for i, query in enumerate(queries):
        for j, key in enumerate(keys):
            torch.testing.assert_close(full[:, i, j], direct(bias, query[0] - key[0], query[1] - key[1]))


def test_table_is_small_and_distinct():
    y = axis_offsets(56, [2 * (7 * i + 3) for i in range(8)])
    assert len(y.values) == 56 + 7 * 7  # 3136 x 64 pairs, 105 x 105 offsets
    assert len(y.values.unique()) == len(y.values)
    assert int(y.index.min()) == 0
    assert int(y.index.max()) == len(y.values) - 1


def test_window_bias_depends_on_offsets_only(bias):
    R = 4
    full = window_bias(bias, window_size=R, dtype=torch.float64)[0]
    by_offset = {}
    for i in range(R * R):
        for j in range(R * R):
            offset = (i // R - j // R, i % R - j % R)
            assert torch.equal(by_offset.setdefault(offset, full[:, i, j]), full[:, i, j])
    assert len(by_offset) == (2 * R - 1) ** 2
    torch.testing.assert_close(by_offset[(1, -2)], direct(bias, 1.0, -2.0))


def test_short_window_keeps_the_bias_of_its_offsets(bias):
    full = window_bias(bias, window_size=4, dtype=torch.float64)
    short = crop_window_bias(full, window_size=4, tokens=(2, 3))[0]
    for i in range(6):
        for j in range(6):
            offset = (float(i // 3 - j // 3), float(i % 3 - j % 3))
            torch.testing.assert_close(short[:, i, j], direct(bias, *offset))


def test_bias_mlp_has_the_width_of_the_notes():
    bias = DynamicPositionBias(96, num_heads=3)
    assert [m.out_features for m in bias.modules() if isinstance(m, torch.nn.Linear)] == [6, 6, 6, 3]


def test_offsets_are_not_rounded_by_autocast():
    bias = DynamicPositionBias(64, num_heads=2)
    offsets = torch.tensor([257.0, 258.5])  # neither exists in bfloat16
    plain = bias(offsets, offsets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bias(offsets, offsets), plain)


def test_the_table_sees_what_an_adapter_learns():
    bias, offsets = DynamicPositionBias(64, num_heads=3).eval(), torch.arange(3.0)
    bias.rest[2] = torch.nn.Sequential(bias.rest[2], torch.nn.Linear(4, 4))
    with torch.no_grad():
        before = bias.cached("table", lambda: bias(offsets, offsets))
        bias.rest[2][1].bias.add_(1)
        assert not torch.equal(before, bias.cached("table", lambda: bias(offsets, offsets)))


def test_offsets_do_not_depend_on_the_default_type():
    _kept_axis_offsets.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        values = axis_offsets(5, [0, 2]).values
    finally:
        torch.set_default_dtype(torch.float32)
    assert values.dtype == torch.float32


def test_replicas_of_data_parallel_have_no_table_of_others():
    bias = DynamicPositionBias(32, num_heads=2).eval()
    replica = bias._replicate_for_data_parallel()
    for name in ("first", "rest"):
        setattr(replica, name, copy.deepcopy(getattr(bias, name)))
    for part in (replica.first, *replica.rest):  # as `torch.nn.parallel.replicate` leaves them: plain attributes
        for name, tensor in [*part._parameters.items()]:
            del part._parameters[name]
            object.__setattr__(part, name, tensor.detach())
    with torch.no_grad():
        expected = window_bias(bias, window_size=3, dtype=torch.float32)
        torch.testing.assert_close(window_bias(replica, window_size=3, dtype=torch.float32), expected)
        replica.rest[-1].bias.add_(1)
        assert not torch.allclose(window_bias(replica, window_size=3, dtype=torch.float32), expected)
        assert torch.equal(window_bias(bias, window_size=3, dtype=torch.float32), expected)


def test_offsets_kept_in_inference_serve_training():
    with torch.inference_mode():
        axis = axis_offsets(29, [3, 17])
    assert axis_offsets(29, [3, 17]) is axis
    table = torch.randn(2, len(axis.values), len(axis.values), requires_grad=True)
    gather_bias(table, axis.index, axis.index).sum().backward()
    assert table.grad.sum() == 2 * axis.index.numel() ** 2


def test_a_layer_whose_weight_is_a_method_is_called(bias):
    class Quantized(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def weight(self):
            return self.layer.weight

        def forward(self, x):
            return self.layer(x)

    bias, offsets = bias.float(), torch.arange(-3.0, 4.0)
    expected = bias(offsets, offsets)
    bias.first = Quantized(bias.first)
    assert torch.equal(bias(offsets, offsets), expected)
