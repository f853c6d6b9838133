"""Evaluation between epochs."""

from __future__ import annotations

from typing import Any

from retinanet_fast.engine.errors import Stopped
from retinanet_fast.engine.evaluation.detect import detect
from retinanet_fast.engine.evaluation.results import save_detected
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.signals import StopRequest
from retinanet_fast.engine.training.hooks import Hook
from retinanet_fast.engine.training.run import Run


def is_evaluated(run: Run, epoch: int) -> bool:
    """Whether there is an evaluation after an epoch, counted from 1."""
    recipe = run.recipe
    return run.val_split is not None and (epoch == recipe.epochs or epoch % recipe.eval_every == 0)


def is_scored_beside(run: Run, epoch: int) -> bool:
    """Whether the evaluation after an epoch is scored while the next epoch trains: the last one has no next."""
    return run.recipe.score_beside and epoch < run.recipe.epochs and is_evaluated(run, epoch)


class Evaluate(Hook):
    """COCO's numbers of the validation split, every ``eval_every`` epochs and after the last one, into the record;
    the detections, into the run's folder. With ``score_beside`` the numbers are left to ``Scoring``."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        recipe, epoch = run.recipe, record["epoch"]
        if not is_evaluated(run, epoch):
            return
        assert run.val_split is not None
        split = run.val_split.first(recipe.eval_images) if recipe.eval_images else run.val_split
        with run.clock("evaluation"):
            run.detected = detect(
                run.state.best_model,
                split,
                run.train_split.categories,
                recipe,
                run.device,
                run.problems,
                run.processes,
                stop=self._check,
            )
            with run.processes.patiently():
                if run.detected is not None:
                    run.detected.epoch = epoch
                    save_detected(RunFolder(run.out).detections, run.detected)
                    if not is_scored_beside(run, epoch):
                        run.evaluation = run.score()
                        record.update(run.evaluation.numbers)
                    record["eval_images_per_second"] = run.detected.images_per_second
        run.state.model.train()

    def _check(self) -> None:
        if self.stop.signal_number is not None:
            raise Stopped(
                self.stop.signal_number, "the epoch before this evaluation is saved, --resume evaluates it"
            )
