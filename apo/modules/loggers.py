"""metrics.csv: one row per optimizer step, rewound on resume so that it reads as if nothing had happened."""

import csv
import os
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from apo.config.recorded import metrics
from apo.io.files import naming, replacing


class MetricsCSV(Logger):
    """One row per step in folder/metrics.csv, on disk at once. What is logged for the last row's step joins that row.

    New columns rewrite the file; old rows leave them empty.
    """

    def __init__(self, folder: str):
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.columns: list[str] = []
        self.last: dict[str, object] = {}  # the last row that this process wrote
        self.last_at = 0  # where it begins in the file

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> "MetricsCSV":
        return self

    @rank_zero_only
    def log_hyperparams(self, *args, **kwargs) -> None: ...

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step} | metrics
        if step == self.last.get("step"):
            row = self.last | row
            os.truncate(self.path, self.last_at)
        if new := [key for key in row if key not in self.columns]:
            rows = self.read()
            self.columns = self.columns or (list(rows[0]) if rows else [])
            self.columns += [key for key in new if key not in self.columns]
            self._write(rows)
        with naming(self.path), self.path.open("a", newline="") as file:
            self.last, self.last_at = row, file.tell()
            csv.DictWriter(file, self.columns).writerow(row)

    def log_video(self, *args, **kwargs) -> None:
        """They lie in the run folder anyway."""

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Forgets the rows from `step` on: a run killed after its last checkpoint takes those steps again."""
        rows = [row for row in self.read() if int(row["step"]) < step]
        self.columns, self.last = list(rows[0]) if rows else [], {}
        if rows:
            self._write(rows)
        else:
            self.path.unlink(missing_ok=True)

    def read(self) -> list[dict[str, str]]:
        return metrics(self.path)

    def _write(self, rows: list[dict]) -> None:
        with replacing(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            if self.columns:
                writer.writeheader()
            writer.writerows(rows)
