"""Picture strips: layout, order and the legend."""

import numpy as np

from densevit.visualize.strip import GAP, picture_grid, prediction_strip

RED, GREEN, BLUE = ((np.full((20, 40, 3), 0, dtype=np.uint8) + np.eye(3, dtype=np.uint8)[i] * 255) for i in range(3))
PALETTE = ((200, 0, 0), (0, 0, 200), (0, 200, 0))


def test_cells_stand_in_order_below_their_titles():
    grid = picture_grid([[RED, GREEN], [BLUE, None]], titles=["one", "two"], cell_width=80)
    assert grid.shape == (34 + 2 * (40 + GAP), 2 * (80 + GAP) + GAP, 3)  # cells keep 1:2
    first_row, second_row = 34 + 20, 34 + 40 + GAP + 20
    assert grid[first_row, GAP + 40].tolist() == [255, 0, 0]
    assert grid[first_row, 2 * GAP + 120].tolist() == [0, 255, 0]
    assert grid[second_row, GAP + 40].tolist() == [0, 0, 255]
    assert grid[second_row, 2 * GAP + 120].tolist() == [255, 255, 255]
    assert (grid[:34] < 128).any()  # titles are written


def test_rows_of_different_sizes_and_captions():
    tall = np.zeros((60, 20, 3), dtype=np.uint8)
    grid = picture_grid([[RED], [tall]], titles=["x"], captions=["a", "b"], cell_width=40)
    assert grid.shape[0] == 34 + (20 + 20 + GAP) + (20 + 120 + GAP)


def test_strip_has_three_columns_and_a_legend_of_the_classes_seen():
    labels = np.zeros((20, 40), dtype=np.uint8)
    truth = labels.copy()
    truth[:, 20:] = 1
    truth[0] = 255
    strip = prediction_strip(
        [RED, RED], [truth, None], [labels, labels], classes=["a", "b", "c"], palette=PALETTE, cell_width=40
    )
    assert strip.shape[1] == 3 * (40 + GAP) + GAP
    colours = set(map(tuple, strip.reshape(-1, 3).tolist()))
    assert set(PALETTE[:2]) <= colours  # legend patches
    assert PALETTE[2] not in colours


def test_without_truth_there_is_no_column_for_it():
    labels = np.zeros((20, 40), dtype=np.uint8)
    strip = prediction_strip([RED], [None], [labels], classes=["a"], palette=PALETTE[:1], cell_width=40)
    assert strip.shape[1] == 2 * (40 + GAP) + GAP
