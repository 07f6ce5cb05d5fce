"""metrics.csv: rows, new columns, resuming."""

import pytest

from densevit.training.metrics_csv import MetricsCSV


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsCSV(path)
    log.log_metrics({"train/loss": 0.5, "train/lr": 1e-5}, step=1)
    log.log_metrics({"train/loss": 0.25, "train/lr": 1e-5}, step=2)
    log.log_metrics({"val/mIoU": 1 / 3}, step=2)
    log.log_metrics({"train/loss": 0.125, "train/lr": 1e-5}, step=3)
    return path


def test_columns_grow(path):
    assert path.read_text().splitlines() == [
        "step,train/loss,train/lr,val/mIoU",
        "1,0.5,1e-05,",
        "2,0.25,1e-05,",
        "2,,,0.333333",
        "3,0.125,1e-05,",
    ]


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({}, 0),
        ({"resume_step": 0}, 0),
        ({"resume_step": 1}, 1),
        ({"resume_step": 2}, 3),
        ({"resume_step": 2, "pending": True}, 2),
        ({"resume_step": 3}, 4),
    ],
)
def test_rows_after_the_resumed_step_are_dropped(path, arguments, kept):
    before = path.read_text().splitlines()
    log = MetricsCSV(path, **arguments)
    log.log_metrics({"train/loss": 9, "train/lr": 1e-5}, step=99)
    rows = path.read_text().splitlines()[1:]
    assert [row.rstrip(",") for row in rows[:-1]] == [row.rstrip(",") for row in before[1 : 1 + kept]]
    assert rows[-1].startswith("99,9")


def test_a_line_cut_off_by_a_kill_is_dropped(path):
    path.write_text(path.read_text() + "1")  # the beginning of "10,..."
    assert [row["step"] for row in MetricsCSV(path, resume_step=20).rows] == ["1", "2", "2", "3"]
