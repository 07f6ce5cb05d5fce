"""2D resizing of position embeddings: a hand-worked case, parity with timm, prefix rows, errors."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed

from densevit.errors import UserError
from densevit.models.position import resize_position_embedding


def test_bilinear_by_hand():
    # one channel, a class row and a 1 x 2 grid [0, 8] widened to 1 x 4: samples at -0.25, 0.25, 0.75, 1.25 of the grid
    position = torch.tensor([[[100.0], [0.0], [8.0]]])
    wide = resize_position_embedding(position, old_grid=(1, 2), new_grid=(1, 4), num_prefix=1)
    assert wide.flatten().tolist() == [100, 0, 2, 6, 8]


def test_bilinear_keeps_rows_and_columns_apart():
    position = torch.randn(1, 2 + 3 * 5, 4)
    resized = resize_position_embedding(position, old_grid=(3, 5), new_grid=(4, 2), num_prefix=2)
    maps = position[:, 2:].reshape(1, 3, 5, 4).permute(0, 3, 1, 2)
    expected = F.interpolate(maps, size=(4, 2), mode="bilinear", align_corners=False)
    assert torch.equal(resized[:, :2], position[:, :2])
    torch.testing.assert_close(resized[:, 2:].transpose(1, 2).reshape(1, 4, 4, 2), expected)


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
@pytest.mark.parametrize("new_grid", [(3, 5), (7, 4), (2, 2)])
def test_bicubic_equals_timms(num_prefix, new_grid):
    position = torch.randn(1, num_prefix + 15, 8)
    ours = resize_position_embedding(
        position, old_grid=(3, 5), new_grid=new_grid, num_prefix=num_prefix, mode="bicubic"
    )
    torch.testing.assert_close(ours, resample_abs_pos_embed(position, new_grid, (3, 5), num_prefix))


def test_same_grid_is_returned_untouched_and_halves_keep_their_type():
    position = torch.randn(1, 6, 4).half()
    assert resize_position_embedding(position, old_grid=(2, 3), new_grid=(2, 3)) is position
    assert resize_position_embedding(position, old_grid=(2, 3), new_grid=(3, 2)).dtype == torch.float16


def test_transposed_grid_is_a_resize_although_the_count_agrees():
    position = torch.arange(6.0).reshape(1, 6, 1)
    assert not torch.equal(resize_position_embedding(position, old_grid=(2, 3), new_grid=(3, 2)), position)


def test_errors():
    position = torch.randn(1, 7, 4)
    with pytest.raises(UserError, match="7 rows does not hold 2 prefix tokens and a 2x3 grid"):
        resize_position_embedding(position, old_grid=(2, 3), new_grid=(4, 4), num_prefix=2)
    with pytest.raises(UserError, match="did you mean 'bicubic'"):
        resize_position_embedding(position, old_grid=(2, 3), new_grid=(4, 4), num_prefix=1, mode="cubic")
