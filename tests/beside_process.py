"""A process that has another one score, and waits to be killed: ``beside_process.py DATA OUT``. It says the number and
the folder of the other when that one is at its drawings, which take long."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tiny_run import beside_recipe, tiny_run

from retinanet_fast.engine.evaluation.results import Detected, from_list, save_detected
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.score_process import DRAWN, Job, ScoreProcess


def draw_for_long(run: Run, out: Path) -> None:
    """A drawing."""
    out.mkdir(parents=True)
    time.sleep(600)


if __name__ == "__main__":
    from beside_process import draw_for_long as drawing  # by a name that the other process finds

    run = tiny_run(Path(sys.argv[1]), Path(sys.argv[2]), beside_recipe())
    assert run.val_split is not None
    detections = RunFolder(run.out).detections
    save_detected(detections, Detected(from_list([]), run.val_split.images.ids.tolist(), 1.0, epoch=1))
    process = ScoreProcess(
        Job("run", run.recipe, run.train_split, run.val_split, [{"epoch": 1}], detections, [drawing], [])
    )
    while not (process.folder / DRAWN / "run").exists():
        assert not process.is_done()
        time.sleep(0.05)
    print(process.pid, process.folder, flush=True)
    time.sleep(600)
