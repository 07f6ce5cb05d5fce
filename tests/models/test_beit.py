"""BEiT's relative position bias: the index, resizing, and what is kept between calls."""

import copy

import pytest
import timm
import torch
from timm.models.beit import gen_relative_position_index

from densevit.models import beit
from densevit.models.beit import RelativeBiasTables, relative_position_index, resize_bias_table
from densevit.models.vit import ViTEncoder


@pytest.fixture
def tables():
    vit = timm.create_model("beit_base_patch16_224", img_size=(32, 48), depth=2, embed_dim=12, num_heads=3)
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.relative_position_bias_table.normal_()
    return RelativeBiasTables(vit).eval()


def slow_bias(table, grid):
    """One entry at a time: the row of two patches' offset, or one of the last three rows for the class token."""
    H, W = grid
    places = [None, *((y, x) for y in range(H) for x in range(W))]
    bias = torch.empty(table.shape[1], len(places), len(places))
    for q, query in enumerate(places):
        for k, key in enumerate(places):
            if query and key:
                row = (query[0] - key[0] + H - 1) * (2 * W - 1) + query[1] - key[1] + W - 1
            else:
                row = -1 if query == key else -3 if query is None else -2
            bias[:, q, k] = table[row]
    return bias[None]


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 4)])
def test_index_equals_timms(grid):
    assert torch.equal(relative_position_index(grid), gen_relative_position_index(grid).flatten())


def test_bias_by_hand_at_the_native_grid(tables):
    assert tables.window == (2, 3)
    with torch.no_grad():
        assert torch.equal(tables(1, (2, 3)), slow_bias(tables.tables[1], (2, 3)))


def test_bias_at_another_grid_is_that_of_the_resized_table(tables):
    resized = resize_bias_table(tables.tables[0], old_grid=(2, 3), new_grid=(4, 5))
    assert resized.shape == (7 * 9 + 3, 3)
    assert torch.equal(resized[-3:], tables.tables[0][-3:])
    centre = resized[:-3].unflatten(0, (7, 9))[3, 4]  # offset (0, 0) stays offset (0, 0)
    torch.testing.assert_close(centre, tables.tables[0][:-3].unflatten(0, (3, 5))[1, 2])
    with torch.no_grad():
        assert torch.equal(tables(0, (4, 5)), slow_bias(resized, (4, 5)))


def test_bias_is_kept_until_grid_or_weights_change(tables):
    with torch.no_grad():
        first = tables(0, (4, 4))
        assert tables(0, (4, 4)) is first
        other = tables(0, (4, 3))
        assert other.shape[-1] == 13
        assert tables(0, (4, 4)) is not first  # one grid at a time
        assert torch.equal(tables(0, (4, 4)), first)


def test_kept_bias_follows_an_optimizer_step_and_load_state_dict(tables):
    before = copy.deepcopy(tables.state_dict())
    with torch.no_grad():
        old = tables(0, (2, 3))
    optimizer = torch.optim.AdamW(tables.parameters(), lr=0.1)
    tables(0, (2, 3)).square().sum().backward()
    optimizer.step()  # without leaving eval mode
    with torch.no_grad():
        stepped = tables(0, (2, 3))
        assert not torch.equal(stepped, old)
        assert torch.equal(stepped, slow_bias(tables.tables[0], (2, 3)))
        tables.load_state_dict(before)
        assert torch.equal(tables(0, (2, 3)), old)
        tables.to(torch.float64)
        assert tables(0, (2, 3)).dtype == torch.float64


def test_kept_in_inference_mode_and_used_in_training_afterwards(tables):
    with torch.inference_mode():
        kept = tables(0, (4, 4))
        assert tables(0, (4, 4)) is kept
    tables.train()
    bias = tables(0, (4, 4))
    bias.sum().backward()
    assert tables.tables[0].grad is not None
    assert torch.equal(bias, kept)


def test_nothing_is_kept_with_gradients_in_copies_or_beyond_the_limit(tables, monkeypatch):
    assert tables(0, (4, 4)).requires_grad
    assert not tables._kept
    with torch.no_grad():
        tables(0, (4, 4))
        assert copy.deepcopy(tables)._kept == {}
        assert torch.equal(copy.deepcopy(tables)(0, (4, 4)), tables(0, (4, 4)))
        tables.forget()
        monkeypatch.setattr(beit, "MAX_KEPT_BYTES", 2 * 3 * 17**2 * 4 - 1)
        assert torch.equal(tables(0, (4, 4)), tables(0, (4, 4)))
        assert not tables._kept


def test_encoder_takes_the_tables_over_and_saves_them():
    vit = timm.create_model("beit_base_patch16_224", img_size=(32, 48), depth=3, embed_dim=12, num_heads=3)
    encoder = ViTEncoder(vit, out_blocks=(2,))
    names = [name for name in encoder.state_dict() if "relative" in name]
    assert names == ["relative_bias.tables.0", "relative_bias.tables.1"]
