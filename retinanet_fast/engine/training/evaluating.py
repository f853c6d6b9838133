"""Evaluation between epochs."""

from __future__ import annotations

import dataclasses
from typing import Any

from retinanet_fast.engine.errors import Stopped
from retinanet_fast.engine.evaluation.coco_numbers import evaluate
from retinanet_fast.engine.evaluation.detect import detect
from retinanet_fast.engine.evaluation.results import save_detected
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.hooks import Hook
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.signals import StopRequest


class Evaluate(Hook):
    """COCO's numbers of the validation split, every ``eval_every`` epochs and after the last one, into the record;
    the detections, into the run's folder."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop

    def after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        recipe, epoch = run.recipe, record["epoch"]
        if run.val_split is None or not (epoch == recipe.epochs or epoch % recipe.eval_every == 0):
            return
        split = dataclasses.replace(run.val_split, images=run.val_split.images[: recipe.eval_images or None])
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
                    run.evaluation = evaluate(split, run.detected.results, run.detected.image_ids)
                    record.update(run.evaluation.numbers)
                    record["eval_images_per_second"] = run.detected.images_per_second
        run.state.model.train()

    def _check(self) -> None:
        if self.stop.signal_number is not None:
            raise Stopped(
                self.stop.signal_number, "the epoch before this evaluation is saved, --resume evaluates it"
            )
