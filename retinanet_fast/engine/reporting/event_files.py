"""TensorBoard's event files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.reporting.each_epoch import EachEpoch
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.hooks import StepReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from retinanet_fast.engine.training.run import Run

# Steps between two writes.
STEPS = 10
# Where TensorBoard shows a record's number; what is not here is a number of COCO's, or is left out.
TAGS = {
    "images_per_second": "speed/images_per_second",
    "eval_images_per_second": "speed/eval_images_per_second",
    "memory_bytes": "memory/bytes",
}


class TensorBoard(EachEpoch):
    """Writes losses and learning rate of each step, and numbers and times of each epoch, over the steps.

    A resumed run tells TensorBoard to forget the steps after its checkpoint, which come again. Where an earlier run is
    to be replaced, nothing is written before the first checkpoint; what comes earlier is kept until then.
    """

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._pending: list[tuple[str, float, int, float]] = []
        self._steps = 0

    def on_start(self, run: Run) -> None:
        super().on_start(run)
        if run.state.step > 0 or not self.folder.last.exists():
            self._writer = self._open(
                purge_step=run.state.step + 1
            )  # it forgets from this step on, inclusive

    def after_step(self, run: Run, report: StepReport) -> None:
        if not report.skipped:
            values = {f"loss/{name}": value for name, value in report.losses.items()}
            self._add({**values, "loss/total": sum(report.losses.values())}, report.step)
        self._add({"learning_rate": report.learning_rate}, report.step)
        self._steps += 1
        if self._steps >= STEPS:
            self._write()

    def after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        self._write(flush=True)  # what the checkpoint knows of is then on the disk

    def after_save(self, run: Run) -> None:
        if self._writer is None:
            self._writer = self._open()
        super().after_save(run)
        self._write(flush=True)

    def each_epoch(self, run: Run, record: dict[str, Any]) -> None:
        self._add(dict(_values(record)), record["iterations"])

    def on_end(self, run: Run) -> None:
        self._write()
        if self._writer is not None:
            self._writer.close()

    def _open(self, purge_step: int | None = None) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder.tensorboard), purge_step=purge_step, flush_secs=20)

    def _add(self, values: dict[str, float], step: int) -> None:
        now = time.time()
        self._pending += [(tag, value, step, now) for tag, value in values.items()]

    def _write(self, flush: bool = False) -> None:
        if self._writer is None:
            return
        for tag, value, step, when in self._pending:
            self._writer.add_scalar(tag, value, step, when)
        self._pending, self._steps = [], 0
        if flush:
            self._writer.flush()


def _values(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name == "times":
            yield from ((f"seconds/{phase}", seconds) for phase, seconds in value.items())
        elif name.startswith(("AP", "AR")) and not math.isnan(value):
            yield f"coco/{name}", value
        elif name in TAGS and value is not None:
            yield TAGS[name], value
