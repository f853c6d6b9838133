"""What was replaced, what was left and why, and how far the results are from those of before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from retinanet_fast.acceleration.plan import SUPPORTED, Step, plan
from retinanet_fast.acceleration.swap import swapped_methods
from retinanet_fast.acceleration.verify import Difference

__all__ = ["Report", "make_report", "steps_or_error"]


@dataclass
class Report:
    """The state of a model's methods; ``str`` of it is a few lines for the reader.

    ``accelerated`` has the steps whose method is replaced now (with a ``reason``: in part), ``left`` the others, and
    ``differences`` what ``verify`` found, empty where it did not run.
    """

    accelerated: list[Step]
    left: list[Step]
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        lines = ["retinanet_fast.accelerate"]
        for step in self.accelerated:
            part = f" only: {step.reason}" if step.reason else ""
            lines.append(f"  {step.name} -> {step.op}{part}")
        for step in self.left:
            lines.append(f"  {step.name} left as it is: {step.reason or 'not accelerated'}")
        lines += [f"  verified {difference}" for difference in self.differences]
        return "\n".join(lines)


def steps_or_error(model: nn.Module) -> list[Step]:
    """The plan of ``model``, or a ``TypeError`` that says what is supported."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: expected a torch.nn.Module, got {type(model).__name__}")
    steps = plan(model)
    if not steps:
        raise TypeError(
            f"accelerate: expected a model that is or contains a detector, found none in {type(model).__name__}. "
            f"Supported are {SUPPORTED}; for detectron2's RetinaNet, see "
            "retinanet_fast.compat.detectron2.accelerate_retinanet"
        )
    return steps


def make_report(steps: Sequence[Step], differences: Sequence[Difference] = ()) -> Report:
    """The report of a plan by what is replaced at this moment."""
    done = [step for step in steps if step.method in swapped_methods(step.module)]
    return Report(done, [step for step in steps if step not in done], list(differences))
