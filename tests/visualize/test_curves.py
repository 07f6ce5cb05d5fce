"""Curves from a CSV log with empty cells, and the mistakes that can be made."""

import numpy as np
import pytest
from PIL import Image

from densevit.errors import UserError
from densevit.visualize.curves import panel_of, read_metrics, save_comparison, save_curves

LOG = "epoch,step,train/loss,val/miou,lr-SGD/pg1\n0,0,2.5,,0.01\n0,9,1.5,,0.005\n0,9,,0.25,\n1,19,,0.5,\n"


def test_empty_cells_are_skipped(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(LOG)
    series = read_metrics(path)
    assert series == {
        "train/loss": ([0, 9], [2.5, 1.5]),
        "val/miou": ([9, 19], [0.25, 0.5]),
        "lr-SGD/pg1": ([0, 9], [0.01, 0.005]),
    }


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        ("train/loss", "loss"),
        ("train/loss_auxiliary", "loss"),
        ("val/mean_iou", "score"),
        ("val/pixel_accuracy", "score"),
        ("lr-AdamW", "learning rate"),
        ("images_per_s", None),
    ],
)
def test_panel_of(name, panel):
    assert panel_of(name) == panel


def test_draws_a_panel_for_each_kind(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(LOG)
    save_curves(path, tmp_path / "three.png")
    path.write_text("step,train/loss\n" + "\n".join(f"{step},{1 / (step + 1)}" for step in range(100)))
    save_curves(path, tmp_path / "one.png")
    three, one = (Image.open(tmp_path / f"{name}.png") for name in ("three", "one"))
    assert three.height == one.height
    assert three.width == 3 * one.width
    assert len(np.unique(np.asarray(one))) > 20


def test_missing_or_empty_logs_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        save_curves(tmp_path / "none.csv", tmp_path / "x.png")
    path = tmp_path / "metrics.csv"
    path.write_text("")
    with pytest.raises(UserError, match="no metrics by step"):
        save_curves(path, tmp_path / "x.png")
    path.write_text("step,images_per_s\n0,5\n")
    with pytest.raises(UserError, match="neither a loss"):
        save_curves(path, tmp_path / "x.png")


def test_comparison_has_one_line_per_run_in_each_panel(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    for name, top in (("a", 0.5), ("b", 0.6)):
        (tmp_path / f"{name}.csv").write_text(f"step,train/loss,val/top1\n1,2.0,\n2,1.0,{top}\n")
    drawn = []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **kw: drawn.append((x, y)) or plot(self, x, y, **kw))
    runs = {"A": tmp_path / "a.csv", "B": tmp_path / "b.csv"}
    save_comparison(runs, tmp_path / "c.png", columns=["train/loss", "val/top1"])
    assert drawn == [([1, 2], [2.0, 1.0])] * 2 + [([2], [0.5]), ([2], [0.6])]
    assert (tmp_path / "c.png").stat().st_size > 1000
    with pytest.raises(UserError, match="val/mIoU"):
        save_comparison(runs, tmp_path / "d.png", columns=["val/mIoU"])
