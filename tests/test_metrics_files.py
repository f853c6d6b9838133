"""``metrics.jsonl`` and ``metrics.csv``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import run_stand_in

from retinanet_fast.engine.reporting.metrics import MetricsFiles
from retinanet_fast.engine.run_folder import RunFolder


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def test_the_table_says_what_the_lines_say(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run_stand_in.go(run_stand_in.stand_in(tmp_path), [MetricsFiles(folder)], 12)
    with folder.metrics_table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for row, line in zip(rows, lines(folder), strict=True):
        flat = {**line, **{f"times.{phase}": seconds for phase, seconds in line["times"].items()}}
        del flat["times"], flat["curve"], flat["losses"]
        assert {name for name, text in row.items() if text} == {n for n, v in flat.items() if v is not None}
        assert {name: float(text) for name, text in row.items() if text} == {
            name: value for name, value in flat.items() if value is not None
        }
    assert lines(folder)[1]["APL"] is None  # NaN, which json has not
    assert rows[1]["APL"] == ""


def test_a_resume_goes_on_where_the_checkpoint_is(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run = run_stand_in.stand_in(tmp_path)
    run_stand_in.go(run, [MetricsFiles(folder)], 8)
    # The checkpoint is that of the first epoch: the second is trained again, and was not on the disk.
    run.history, run.state.step = run.history[:1], 4
    hook = MetricsFiles(folder)
    hook.on_start(run)
    assert [line["epoch"] for line in lines(folder)] == [1]
    run_stand_in.go(run, [hook], 12)
    assert [line["epoch"] for line in lines(folder)] == [1, 2, 3]


def test_a_new_run_touches_nothing_before_its_first_epoch(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("an old run's")
    run = run_stand_in.stand_in(tmp_path)
    hook = MetricsFiles(folder)
    hook.on_start(run)
    hook.after_save(run)  # a checkpoint within the epoch
    assert folder.metrics.read_text() == "an old run's"
