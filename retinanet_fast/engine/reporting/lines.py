"""An epoch in two lines: its numbers, and where its time went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.reporting.each_epoch import EachEpoch
from retinanet_fast.engine.training.clock import PHASES

if TYPE_CHECKING:
    from retinanet_fast.engine.training.run import Run


class SayEpoch(EachEpoch):
    """Says both lines after each epoch."""

    def each_epoch(self, run: Run, record: dict[str, Any]) -> None:
        run.say(epoch_line(record, run.recipe.epochs))
        run.say(time_line(record))


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """An epoch's numbers."""
    losses = ", ".join(f"{name} {record[name]:.4f}" for name in record["losses"])
    line = f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.4f} ({losses})"
    if record["skipped_steps"]:
        line += f"  {record['skipped_steps']} steps skipped"
    if "AP" in record:
        line += f"  AP {record['AP']:.3f}  AP50 {record['AP50']:.3f}"
    return line


def time_line(record: dict[str, Any]) -> str:
    """Each phase's share of an epoch's time, the speed, and the most memory used so far."""
    times: dict[str, float] = record["times"]
    whole = max(sum(times.values()), 1e-9)
    order = [*(phase for phase in PHASES if phase in times), *sorted(times.keys() - set(PHASES))]
    shares = ", ".join(f"{phase} {100 * times[phase] / whole:.0f}%" for phase in order)
    line = f"  time: {shares}; {record['images_per_second']:.1f} images/s"
    if record.get("memory_bytes"):
        line += f"; memory {record['memory_bytes'] / 2**30:.1f} GiB"
    return line
