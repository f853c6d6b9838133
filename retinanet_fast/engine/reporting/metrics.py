"""A run's numbers as files for other programs: ``metrics.jsonl`` and ``metrics.csv``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.reporting.each_epoch import EachEpoch
from retinanet_fast.engine.run_folder import RunFolder

if TYPE_CHECKING:
    from retinanet_fast.engine.training.run import Run

Record = dict[str, Any]


class MetricsFiles(EachEpoch):
    """Writes both files anew from the run's history, so that after a resume they go on where the checkpoint does: no
    epoch is there twice."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder

    def on_start(self, run: Run) -> None:
        super().on_start(run)
        if run.history:
            write_metrics(self.folder, run.history)

    def each_epoch(self, run: Run, record: Record) -> None:
        write_metrics(self.folder, run.history)


def write_metrics(folder: RunFolder, history: list[Record]) -> None:
    """Write both files of the whole history, one record per epoch. A number that is NaN, such as the AP of sizes that
    no box has, is null in the json and empty in the table."""
    write_text(folder.metrics, "".join(json.dumps(_without_nan(record)) + "\n" for record in history))
    write_text(folder.metrics_table, table(history))


def table(history: list[Record]) -> str:
    """The history as comma-separated values: a column for each number that any record has, the parts of ``times`` as
    ``times.data`` and so on, and no loss curve."""
    rows = [dict(_cells(record)) for record in history]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cells(record: Record, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in _without_nan(record).items():
        if isinstance(value, dict):
            yield from _cells(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield prefix + name, value


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
