"""A run's folder: who may write there, what lies there, and what is removed from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from retinanet_fast.engine.checkpoint import BEST, LAST
from retinanet_fast.engine.data.json_values import load_json
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.folder_lock import only_program
from retinanet_fast.engine.run_record import RunRecord

RECORD = "run.json"
RECIPE = "recipe.toml"
METRICS = "metrics.jsonl"
METRICS_TABLE = "metrics.csv"
LOSS_PLOT, AP_PLOT = "loss.png", "ap.png"
PAGE = "report.html"
BROWSE_PAGE = "browse.html"
UNSCORED = "unscored.pt"
DETECTIONS = "detections.npz"
SAMPLES = "samples"
TENSORBOARD = "tensorboard"
# What belongs to one run, and goes when another takes its place. `last.pt` is replaced, never removed.
OF_A_RUN = (
    RECORD,
    RECIPE,
    BEST,
    "step_*.pt",
    METRICS,
    METRICS_TABLE,
    LOSS_PLOT,
    AP_PLOT,
    PAGE,
    BROWSE_PAGE,
    UNSCORED,
    DETECTIONS,
    f"{SAMPLES}/epoch_*.jpg",
    f"{TENSORBOARD}/events.out.tfevents.*",
)
# A file by its path, its inode and its time of change: a file of this name that is written later is another one.
Stamp = tuple[Path, int, int]


@dataclass
class RunFolder:
    """The folder of a run. A run starts in three steps: ``locked``, ``start``, and, when its first checkpoint is there,
    ``begin_anew``."""

    path: Path
    _record: RunRecord | None = field(default=None, init=False)
    _old: list[Stamp] = field(default_factory=list, init=False)

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.path / LAST

    @property
    def best(self) -> Path:
        """The checkpoint of the best evaluation."""
        return self.path / BEST

    @property
    def unscored(self) -> Path:
        """The checkpoint of the evaluation whose numbers are still to come."""
        return self.path / UNSCORED

    @property
    def metrics(self) -> Path:
        """One json object per epoch and line."""
        return self.path / METRICS

    @property
    def metrics_table(self) -> Path:
        """The same as a table, comma-separated."""
        return self.path / METRICS_TABLE

    @property
    def loss_plot(self) -> Path:
        """The losses over the steps."""
        return self.path / LOSS_PLOT

    @property
    def ap_plot(self) -> Path:
        """AP over the epochs."""
        return self.path / AP_PLOT

    @property
    def page(self) -> Path:
        """The page that shows the run."""
        return self.path / PAGE

    @property
    def browse_page(self) -> Path:
        """The page on which to look through the detections."""
        return self.path / BROWSE_PAGE

    @property
    def detections(self) -> Path:
        """The detections of the last evaluation; ``results.load_detected`` reads them."""
        return self.path / DETECTIONS

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / TENSORBOARD

    def sample(self, epoch: int) -> Path:
        """The picture of detections after an epoch, counted from 1."""
        return self.path / SAMPLES / f"epoch_{epoch:03d}.jpg"

    def kept(self, step: int) -> Path:
        """The checkpoint that is kept of a step."""
        return self.path / f"step_{step:08d}.pt"

    def kept_checkpoints(self) -> list[Path]:
        """The kept checkpoints, the oldest first."""
        return sorted(self.path.glob("step_*.pt"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only program that writes here, for the time of the block, and remove the unfinished files of one that
        was killed.

        Only the main process of a run calls this.

        Raises:
            InputError: another program has the folder.
        """
        with only_program(self.path):
            self._remove_unfinished()
            yield

    def start(self, record: RunRecord) -> None:
        """Write ``run.json`` and ``recipe.toml``.

        Where another run's checkpoint lies here that ``record`` does not go on from, nothing is touched before
        ``begin_anew``, so that the other run is whole until this one has a checkpoint of its own.
        """
        self._record = record
        here = self._id_here()
        # A resumed run whose run.json is lost keeps what it has.
        if here != record.id and not (record.resumed and here is None):
            self._old = [stamp for path in self._files_of_a_run() if (stamp := _stamp(path))]
        if record.resumed or not self.last.exists():
            self.begin_anew()

    def begin_anew(self) -> None:
        """Call this when a checkpoint of the run was written: removes what an earlier run has left and writes
        ``run.json`` and ``recipe.toml``. Later calls do nothing."""
        if self._record is None:
            return
        for stamp in self._old:
            # A file that this run has written by now under the same name stays.
            if _stamp(stamp[0]) == stamp:
                stamp[0].unlink()
        write_text(self.path / RECIPE, self._record.recipe.to_toml())
        write_text(self.path / RECORD, json.dumps(self._record.to_dict(), indent=1) + "\n")
        self._record, self._old = None, []

    def read(self) -> RunRecord:
        """What ``run.json`` says.

        Raises:
            InputError: there is none, or it is damaged.
        """
        path = self.path / RECORD
        return RunRecord.from_dict(load_json(path), str(path))

    def _id_here(self) -> str | None:
        """The run that the folder's files belong to; None where that cannot be read."""
        try:
            return self.read().id
        except InputError:
            return None

    def _files_of_a_run(self) -> Iterator[Path]:
        for pattern in OF_A_RUN:
            yield from self.path.glob(pattern)

    def _remove_unfinished(self) -> None:
        """Remove what ``write_atomically`` leaves of a run's own file where it is killed while writing."""
        for pattern in (LAST, *OF_A_RUN):
            folder, _, name = pattern.rpartition("/")
            for file in (self.path / folder).glob(f".{name}.*.part"):
                file.unlink(missing_ok=True)


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return path, status.st_ino, status.st_mtime_ns
