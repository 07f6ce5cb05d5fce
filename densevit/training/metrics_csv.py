"""`metrics.csv` of a run: one row per logged step, kept when a run is resumed."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

Row = dict[str, str]


class MetricsCSV(Logger):
    """A Lightning logger that appends to `path`; rows past the step a run is resumed from are dropped.

    So are the scores of that very step where its validation is still `pending`.
    """

    def __init__(self, path: Path, *, resume_step: int | None = None, pending: bool = False):
        super().__init__()
        self.path = path
        self.purge_step = None if resume_step is None else resume_step + 1
        """The first step that is logged again."""
        self.rows: list[Row] = []
        if resume_step is not None and path.is_file():
            self.rows = [
                row
                for row in _read_rows(path)
                if int(row["step"]) < resume_step + (not (pending and any(key.startswith("val/") for key in row)))
            ]
        self._columns = list(dict.fromkeys(key for row in self.rows for key in row)) or ["step"]
        self._write_all = True

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        values = {key: f"{value:.6g}" for key, value in metrics.items() if key != "epoch"}
        row = {"step": str(step or 0)} | values
        self.rows.append(row)
        new = [key for key in row if key not in self._columns]
        if new or self._write_all:
            self._columns += new
            self._write_all = False
            with self.path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns, restval="")
                writer.writeheader()
                writer.writerows(self.rows)
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The resolved experiment is in `config.yaml`."""


def _read_rows(path: Path) -> list[Row]:
    """Rows of a metrics file, empty cells left out; a line that a kill has cut off, and what follows it, as well."""
    rows: list[Row] = []
    with path.open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            row = {key: value for key, value in cells.items() if key and value}
            step = row.get("step", "")
            if not step.isdecimal() or (rows and int(step) < int(rows[-1]["step"])):
                break
            rows.append(row)
    return rows
