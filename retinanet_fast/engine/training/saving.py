"""When and what a run saves, and how it comes back."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.checkpoint import Checkpoint, Progress
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.files import write_bytes
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.optimizer import restore_optimizer
from retinanet_fast.engine.training.run import Run
from retinanet_fast.models.weights import settings_of


class Saver:
    """Writes a run's checkpoints: ``best.pt``, and ``last.pt`` after epochs, every ``checkpoint_minutes``, at a stop.

    Each is whole at every moment. ``best.pt`` is written before the ``last.pt`` that knows of its epoch: a process that
    is killed between the two does the epoch again.
    """

    def __init__(self, run: Run, folder: RunFolder) -> None:
        self.run, self.folder = run, folder
        self.saved = time.monotonic()
        self.is_new = True

    def due(self) -> bool:
        """Whether the time has come to save within an epoch; asked of the main process."""
        minutes = self.run.recipe.checkpoint_minutes
        return self.run.processes.is_main and 0 < minutes <= (time.monotonic() - self.saved) / 60

    def save(self, epoch_end: bool = False) -> None:
        """Write the state as it is; ``epoch_end`` where the last record is that of the step before."""
        run = self.run
        if run.processes.is_main:
            with run.clock("checkpoint"):
                state = self._checkpoint()
                unscored = run.state.unscored is not None
                if epoch_end and not unscored and is_best(run.history):
                    _to_use(state).save(self.folder.best)
                state.save(self.folder.last)
                if not unscored:
                    self.folder.unscored.unlink(missing_ok=True)
                elif epoch_end:
                    self._hold()
                if self.is_new:
                    self.folder.begin_anew()
                if epoch_end:
                    self._keep(run.recipe.keep_checkpoints)
        self.is_new = False
        self.saved = time.monotonic()

    def save_scored(self) -> None:
        """The numbers of the epoch in ``unscored.pt`` are in the history now: write ``best.pt`` where it is the best,
        and the kept checkpoint of it with them."""
        run = self.run
        best, keep = is_best(run.history), run.recipe.keep_checkpoints > 1
        if run.processes.is_main and (best or keep):
            with run.clock("checkpoint"):
                held = checkpoints.load(self.folder.unscored)
                assert held.progress is not None
                progress = dataclasses.replace(held.progress, unscored=None)
                scored = dataclasses.replace(held, history=run.history, progress=progress)
                if best:
                    _to_use(scored).save(self.folder.best)
                if keep:
                    scored.save(self.folder.kept(progress.step))

    def restore(self) -> None:
        """Go on from ``last.pt``: its weights, its optimizer's state and its epochs are the run's.

        Raises:
            InputError: a checkpoint of another model.
        """
        run, source = self.run, self.folder.last
        saved = checkpoints.load(source)
        if [c.name for c in saved.categories] != [c.name for c in run.train_split.categories]:
            raise InputError(f"{source}: a checkpoint of another model: it was trained on other categories")
        checkpoints.restore(run.state.model, saved, source, averaged=False)
        restore_optimizer(run.state.optimizer, saved.optimizer, source)
        if saved.scaler and run.state.scaler.is_enabled():
            run.state.scaler.load_state_dict(saved.scaler)
        if run.state.ema is not None:
            checkpoints.restore(run.state.ema.model, saved, source)
        run.history = saved.history
        run.problems.restore(saved.problems)
        progress = saved.progress or Progress(step=saved.epoch * saved.steps_per_epoch)
        if progress.step == saved.epoch * saved.steps_per_epoch:
            progress.step = (
                saved.epoch * run.steps_per_epoch
            )  # an epoch may become longer or shorter at its end
        elif saved.steps_per_epoch != run.steps_per_epoch:
            raise InputError(
                f"{source}: within an epoch of {saved.steps_per_epoch} steps, which are {run.steps_per_epoch} now: "
                "batch_size, epoch_steps, aspect_groups and keep_empty can change at the end of an epoch alone"
            )
        for name, value in dataclasses.asdict(progress).items():
            setattr(run.state, name, value)
        self.is_new = False
        if run.processes.is_main and run.state.step == run.epoch * run.steps_per_epoch:
            # A process may have been killed before it came to that.
            self._keep(run.recipe.keep_checkpoints)
            if run.state.unscored is not None:
                self._hold()
        if run.processes.is_main and run.state.unscored is None:
            self.folder.unscored.unlink(missing_ok=True)

    def _keep(self, count: int) -> None:
        """Keep the checkpoints of the last ``count`` epochs, ``last.pt`` among them: a second name for it."""
        if count > 1:
            self._name_too(self.folder.kept(self.run.state.step))
        for old in self.folder.kept_checkpoints()[: -count if count > 1 else None]:
            old.unlink()

    def _hold(self) -> None:
        """Keep the weights of an epoch until its numbers are known: a second name for ``last.pt``, too."""
        self._name_too(self.folder.unscored)

    def _name_too(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        try:
            os.link(self.folder.last, path)
        except OSError:  # a file system without such names
            write_bytes(path, self.folder.last.read_bytes())

    def _checkpoint(self) -> Checkpoint:
        run, state = self.run, self.run.state
        names = [field.name for field in dataclasses.fields(Progress)]
        return Checkpoint(
            model=_on_host(state.model),
            recipe=run.recipe,
            categories=run.train_split.categories,
            epoch=run.epoch,
            optimizer=state.optimizer.state_dict(),
            history=run.history,
            settings=settings_of(state.model),
            ema=_on_host(state.ema.model) if state.ema is not None else {},
            scaler=state.scaler.state_dict(),
            progress=Progress(**{name: getattr(state, name) for name in names}),
            steps_per_epoch=run.steps_per_epoch,
            problems=run.problems.messages,
            record=run.record.to_dict() if run.record is not None else {},
        )


def is_best(history: list[dict[str, Any]]) -> bool:
    """Whether the last epoch was evaluated, and better than all before it."""
    if not history or "AP" not in history[-1]:
        return False
    return all(history[-1]["AP"] > record.get("AP", -1.0) for record in history[:-1])


def _to_use(state: Checkpoint) -> Checkpoint:
    """A checkpoint that is only to be used: the weights to detect with, and nothing to go on training from."""
    return dataclasses.replace(state, model=state.weights, ema={}, optimizer={}, scaler={})


def _on_host(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
