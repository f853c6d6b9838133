"""TensorBoard's event files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.hooks import Hook, Run, StepReport

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Steps between two writes.
STEPS = 10
# Where TensorBoard shows a record's number; what is not here is a number of COCO's, or is left out.
TAGS = {
    "images_per_second": "speed/images_per_second",
    "eval_images_per_second": "speed/eval_images_per_second",
    "memory_bytes": "memory/bytes",
}


class TensorBoard(Hook):
    """Writes losses and learning rate of each step, and numbers and times of each epoch, over the steps.

    Nothing is written before the run's first checkpoint; what comes earlier is kept until then. A resumed run tells
    TensorBoard to forget the steps after its checkpoint, which come again.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._pending: list[tuple[str, float, int, float]] = []
        self._steps = 0

    def on_start(self, run: Run) -> None:
        if run.state.step > 0:
            # It forgets from this step on, inclusive.
            self._writer = self._open(purge_step=run.state.step + 1)

    def after_step(self, run: Run, report: StepReport) -> None:
        if not report.skipped:
            values = {f"loss/{name}": value for name, value in report.losses.items()}
            values["loss/total"] = sum(report.losses.values())
            self._add(values, report.step)
        self._add({"learning_rate": report.learning_rate}, report.step)
        self._steps += 1
        if self._steps >= STEPS and self._writer is not None:
            self._write(self._writer)

    def after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        self._add(dict(_values(record)), record["iterations"])

    def after_save(self, run: Run) -> None:
        if self._writer is None:
            self._writer = self._open()
        self._write(self._writer)
        self._writer.flush()

    def on_end(self, run: Run) -> None:
        if self._writer is not None:
            self._write(self._writer)
            self._writer.close()

    def _open(self, purge_step: int | None = None) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder.tensorboard), purge_step=purge_step, flush_secs=20)

    def _add(self, values: dict[str, float], step: int) -> None:
        now = time.time()
        self._pending += [(tag, value, step, now) for tag, value in values.items()]

    def _write(self, writer: SummaryWriter) -> None:
        for tag, value, step, when in self._pending:
            writer.add_scalar(tag, value, step, when)
        self._pending, self._steps = [], 0


def _values(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name == "times":
            yield from ((f"seconds/{phase}", seconds) for phase, seconds in value.items())
        elif name.startswith(("AP", "AR")) and not math.isnan(value):
            yield f"coco/{name}", value
        elif name in TAGS and value is not None:
            yield TAGS[name], value
