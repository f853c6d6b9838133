"""COCO's numbers beside training: when an epoch is scored, and how its numbers come into the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from retinanet_fast.engine.environment import describe
from retinanet_fast.engine.errors import InputError, Stopped, one_line
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
from retinanet_fast.engine.evaluation.results import load_detected
from retinanet_fast.engine.files import write_bytes
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.signals import StopRequest
from retinanet_fast.engine.training.hooks import Drawing
from retinanet_fast.engine.training.records import with_numbers
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.score_process import Job, ScoreProcess, ScoringError

# Seconds between two looks at the process that scores.
LOOK = 0.05
# Seconds that the run stands still for it before it scores in place: the process may get no core where others keep all
# of them busy.
MOST_WAITED = 120.0


class Scoring:
    """Scores ``run.state.unscored``, in a process beside the run's main one.

    The epoch's record waits there, its weights in ``unscored.pt``, its detections in ``detections.npz``: whenever the
    run is killed, the next start scores it again. All processes of a run call ``take`` at the same step.

    Args:
        drawings: of the hooks, called by the process that scores.
    """

    def __init__(self, run: Run, folder: RunFolder, stop: StopRequest, drawings: Sequence[Drawing]) -> None:
        self.run, self.folder, self.stop, self.drawings = run, folder, stop, drawings
        self.process: ScoreProcess | None = None

    def begin(self) -> None:
        """Start to score the epoch that waits for it, if one does; its checkpoint is on the disk.

        Raises:
            InputError: a resumed run's detections are gone.
        """
        run, record = self.run, self.run.state.unscored
        if record is None or not run.processes.is_main:
            return
        if run.detected is None:
            run.detected = load_detected(self.folder.detections)
        if run.detected.epoch != record["epoch"]:
            raise InputError(
                f"{self.folder.detections}: expected the detections of epoch {record['epoch']}, which is not scored "
                f"yet, found those of epoch {run.detected.epoch}; a new run can start from --init RUN/last.pt"
            )
        if not run.recipe.score_beside:  # any more
            return
        assert run.val_split is not None
        job = Job(
            self.folder.path.resolve().name,
            run.recipe,
            run.train_split,
            run.val_split,
            [*run.history, record],
            self.folder.detections.resolve(),
            self.drawings,
            describe(),
        )
        try:
            self.process = ScoreProcess(job)
        except OSError as error:
            self._say(f"no process can be started ({one_line(error)})")

    def due(self) -> bool:
        """Whether an epoch has its numbers, or nothing is computing them; asked of the main process."""
        waits = self.run.processes.is_main and self.run.state.unscored is not None
        return waits and (self.process is None or self.process.is_done())

    def take(self, wait: bool = False) -> bool:
        """Complete the record of the epoch that is scored, if there is one, and move it to the history.

        Args:
            wait: until it is scored.

        Returns:
            Whether there is one more record in the history.

        Raises:
            Stopped: a signal came while it waited.
        """
        run, state = self.run, self.run.state
        if state.unscored is None:
            return False
        with run.clock("evaluation"):
            with run.processes.patiently() as check:
                scored = run.processes.is_main and (self.due() or (wait and self._wait(check)))
                if scored:
                    run.evaluation = self._evaluation()
            numbers = run.processes.share(run.evaluation.numbers if scored and run.evaluation else None)
        if numbers is None:
            return False
        run.history.append(with_numbers(state.unscored, numbers))
        state.unscored = None
        return True

    def end(self) -> None:
        """End the process, where it runs."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def _wait(self, check: Callable[[], None]) -> bool:
        last = time.monotonic() + MOST_WAITED
        while not self.due():
            check()
            if time.monotonic() > last:
                self._say(f"the process that scores it is not done after {MOST_WAITED:.0f} s of waiting")
                self.end()
            if self.stop.signal_number is not None:
                raise Stopped(self.stop.signal_number, "the last epoch is saved, --resume scores it")
            time.sleep(LOOK)
        return True

    def _evaluation(self) -> Evaluation:
        """By the process; in place where there is none, or it has failed."""
        if self.process is None:
            return self.run.score()
        try:
            evaluation, files = self.process.result()
        except ScoringError as error:
            self._say(f"the process that scored it has failed ({error})")
            return self.run.score()
        finally:
            self.end()
        for name, content in files.items():
            write_bytes(self.folder.path / name, content)
        self.run.drawn = self._epoch
        return evaluation

    @property
    def _epoch(self) -> int:
        record = self.run.state.unscored
        return 0 if record is None else int(record["epoch"])

    def _say(self, reason: str) -> None:
        self.run.say(f"epoch {self._epoch}: {reason}: scored in place")
