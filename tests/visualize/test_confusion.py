"""The confusion picture is drawn for few and many classes, whole and with the colours it should have."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from densevit.visualize.confusion import save_confusion


@pytest.mark.parametrize("num_classes", [1, 2, 11, 60])
def test_nothing_touches_the_edge(tmp_path, num_classes):
    names = [f"class number {k}" for k in range(num_classes)]
    save_confusion(np.eye(num_classes, dtype=np.int64), tmp_path / "c.png", classes=names)
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("L"))
    assert picture.min() < 80
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()
    assert not plt.get_fignums()  # no global figure is left open


def test_rows_are_normalised_and_empty_rows_blank(tmp_path):
    save_confusion(np.array([[1_000_000, 0], [0, 3]]), tmp_path / "a.png", classes=["a", "b"])
    save_confusion(np.array([[5, 0], [0, 3]]), tmp_path / "b.png", classes=["a", "b"])
    save_confusion(np.array([[5, 0], [0, 0]]), tmp_path / "c.png", classes=["a", "b"])
    first, second, third = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in "abc")
    assert (first == second).all()
    dark = [(picture < 90).sum() for picture in (second, third)]
    assert dark[1] < 0.8 * dark[0]
