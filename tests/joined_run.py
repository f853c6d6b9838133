"""A process of a training run of several: ``joined_run.py DATA OUT RECIPE.toml [kill]``, started by ``torchrun``, or
alone with its variables.

With ``kill`` the last process kills itself in the fourth step.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from tiny_run import tiny_model, tiny_run

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.errors import ProcessLost
from retinanet_fast.engine.processes import joined
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.hooks import Hook, StepReport
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.train import saved_record, train


class KillLast(Hook):
    def after_step(self, run: Run, report: StepReport) -> None:
        if report.step == 3 and run.processes.rank == run.processes.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def go(data: Path, out: Path, recipe: Recipe, kill: bool = False) -> None:
    """Go on with the run in ``out``, or begin it. No batch norm: its statistics are those of a process's own images."""
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as processes:
        run = tiny_run(data, out, recipe, skip_bad=True, processes=processes)
        begun = RunFolder(out).last.is_file()
        if begun:
            run.record = saved_record(out)
        model = tiny_model(norm="group")
        model.score_thresh = recipe.score_thresh
        train(run, resume=begun, model=model, hooks=[KillLast()] if kill else [])


if __name__ == "__main__":
    try:
        go(Path(sys.argv[1]), Path(sys.argv[2]), recipes.load(sys.argv[3]), "kill" in sys.argv)
    except ProcessLost as error:
        sys.exit(f"process lost: {error}")
