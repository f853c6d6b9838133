"""The loop over the steps: what comes between them, and how it is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.errors import Stopped, TrainingError
from retinanet_fast.engine.recipe.schedule import learning_rate
from retinanet_fast.engine.signals import StopRequest
from retinanet_fast.engine.training.evaluating import is_scored_beside
from retinanet_fast.engine.training.hooks import Hook, StepReport
from retinanet_fast.engine.training.nonfinite import explain
from retinanet_fast.engine.training.readback import Readback
from retinanet_fast.engine.training.records import epoch_record
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.saving import Saver
from retinanet_fast.engine.training.scoring import Scoring
from retinanet_fast.engine.training.step import TrainStep


@dataclass
class _Taken:
    """A step whose findings are on their way to the host."""

    step: int
    rate: float
    shares: Sequence[Batch]


class Loop:
    """Runs a run to its end, from the step that its state is at.

    What all processes must decide alike (to stop, to save, to skip a step) is decided from what the step has summed
    over them, at the same step in each.
    """

    def __init__(
        self,
        run: Run,
        step: TrainStep,
        order: TrainOrder,
        hooks: Sequence[Hook],
        saver: Saver,
        scoring: Scoring,
        stop: StopRequest,
    ) -> None:
        self.run, self.step, self.order = run, step, order
        self.hooks, self.saver, self.scoring, self.stop = hooks, saver, scoring, stop
        self.readback: Readback[_Taken] = Readback(run.device)
        self.asked_to_stop = self.asked_to_save = False
        self.began = time.perf_counter()

    def __call__(self, batches: Iterator[list[Batch]]) -> None:
        """Take every step that is left.

        Raises:
            Stopped: a signal came; the state is saved.
            TrainingError: the loss is not finite; the state from before the step is saved.
        """
        run, state = self.run, self.run.state
        self.scoring.begin()
        self._finish_epoch_if_due()
        while state.step < run.num_steps:
            with run.clock("data"):
                shares = next(batches)
            self._report_unreadable(shares)
            rate = learning_rate(run.recipe, state.step, run.steps_per_epoch)
            found = self.step(shares, rate, flags=(bool(self.stop), self.saver.due() or self.scoring.due()))
            state.step += 1
            self.readback.push(_Taken(state.step, rate, shares), found)
            for taken, values in self.readback.due():
                self._note(taken, values)
            if self.asked_to_stop or self.asked_to_save or state.step % run.steps_per_epoch == 0:
                for taken, values in self.readback.rest():
                    self._note(taken, values)
                self._finish_epoch_if_due()
                if self.asked_to_stop:
                    self._leave()
                if self.asked_to_save and not self._take_scores():
                    self._save()
        self._take_scores(wait=True)

    def _note(self, taken: _Taken, values: list[float]) -> None:
        """Learn what a step found."""
        run, state = self.run, self.run.state
        names = state.loss_names = self.step.names
        losses, (bad, stop, save) = values[: len(names)], values[len(names) :]
        self.asked_to_stop |= stop > 0
        self.asked_to_save |= save > 0
        if bad > 0:
            self._skip_or_fail(taken, losses)
        else:
            state.skipped_in_row = 0
            state.epoch_losses.append(losses)
        report = StepReport(taken.step, dict(zip(names, losses)), taken.rate, bad > 0, stop > 0)
        for hook in self.hooks:
            hook.after_step(run, report)

    def _skip_or_fail(self, taken: _Taken, losses: list[float]) -> None:
        run, state = self.run, self.run.state
        state.skipped += 1
        state.skipped_in_row += 1
        where = f"epoch {run.epoch + 1}, step {taken.step}"
        if state.skipped_in_row <= self.step.most_in_row:
            run.say(f"{where}: the loss is not finite: skipped, {state.skipped_in_row} in a row")
            return
        # The device has changed no weight since the step before this one.
        state.step = taken.step - 1
        state.skipped -= 1
        state.skipped_in_row -= 1
        self.readback.clear()
        self._save()
        with self.step.autocast():
            reason = explain(state.model, taken.shares, run.device)
        reasons = dict.fromkeys(run.processes.share(run.processes.gather(reason)))
        sums = ", ".join(f"{name} {value:g}" for name, value in zip(self.step.names, losses))
        raise TrainingError(
            f"{where}: the loss is not finite ({sums}): {'; '.join(reasons)}. {run.out} holds the state before it; "
            "a smaller --lr or a --clip-norm may help, --nonfinite skip leaves such steps out"
        )

    def _report_unreadable(self, shares: Sequence[Batch]) -> None:
        for share in shares:
            for message in share.messages:
                self.run.problems.report(message)

    def _finish_epoch_if_due(self) -> None:
        """Evaluate and record an epoch whose steps are done, and save."""
        run, state = self.run, self.run.state
        if state.step != (run.epoch + 1) * run.steps_per_epoch:
            return
        seconds = time.perf_counter() - self.began
        images = sum(len(self.order.batch(state.step - 1 - back)) for back in range(run.steps_per_epoch))
        if self.saver.is_new:
            self._save()  # so that no file of an earlier run is in the folder when the first of this one comes
        try:
            self._take_scores(wait=True)  # of the epoch before, whose detections this one's replace
            record = epoch_record(run, images, seconds)
            for hook in self.hooks:
                hook.after_epoch(run, record)
        except Stopped:
            self._save()
            raise
        record["times"] = run.clock.take()
        if is_scored_beside(run, record["epoch"]):
            state.unscored = record
        else:
            run.history.append(record)
        state.epoch_losses, state.skipped, state.epoch_seconds = [], 0, 0.0
        self._save(epoch_end=True)
        self.scoring.begin()
        self.began = time.perf_counter()

    def _take_scores(self, wait: bool = False) -> bool:
        """Take the numbers of the epoch that was scored beside training, and save; returns whether there are any."""
        if not self.scoring.take(wait):
            return False
        self.saver.save_scored()
        self._save()
        return True

    def _leave(self) -> None:
        self.run.state.epoch_seconds += time.perf_counter() - self.began
        self._save()
        number = self.stop.signal_number or signal.SIGTERM
        raise Stopped(number, f"step {self.run.state.step} is saved, --resume goes on with {self.run.out}")

    def _save(self, epoch_end: bool = False) -> None:
        self.saver.save(epoch_end)
        self.asked_to_save = False
        for hook in self.hooks:
            hook.after_save(self.run)
