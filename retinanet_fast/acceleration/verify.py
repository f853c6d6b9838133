"""A model's losses, gradients and detections beside those of another moment, and the model left without a trace."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Difference", "Results", "compare", "parse_batch", "results"]

Target = Mapping[str, Tensor]
Detection = Mapping[str, Tensor]


@dataclass(frozen=True)
class Tolerance:
    """How far results may be from each other, by the dtype that the model computes in."""

    loss: float  # relative
    gradient: float  # of the parameter's largest gradient
    score: float
    box: float  # pixels, per pixel of the largest coordinate
    unpaired: float  # share of the detections


# Losses: torchvision adds millions of terms in the model's dtype, where ours adds in float64, and takes 1 - p where
# ours does not. Gradients: these roundings, added up by the layers below. Scores and boxes: a few roundings each; the
# op reads float64 outputs as float32, so both have one tolerance. In half types torchvision computes sigmoid and box in
# that type: 2^-9 of a coordinate per operation in bfloat16, which also makes scores equal, whose order is then any.
# Detections without a partner: NMS and the top-k turn a rounding at their thresholds into another selection.
_TOLERANCES = {
    torch.float64: Tolerance(loss=1e-9, gradient=1e-6, score=1e-6, box=1e-5, unpaired=0.01),
    torch.float32: Tolerance(loss=1e-4, gradient=1e-3, score=1e-5, box=1e-5, unpaired=0.01),
    torch.float16: Tolerance(loss=1e-2, gradient=5e-2, score=2e-3, box=4e-3, unpaired=0.25),
    torch.bfloat16: Tolerance(loss=5e-2, gradient=2e-1, score=1e-2, box=2e-2, unpaired=0.5),
}
# A gradient that cancels to nothing (of a bias before a batch norm) is rounding and cannot be compared with itself:
# below this share of the model's largest gradient, that share is the scale.
_SMALLEST_SCALE = 1e-3


@dataclass(frozen=True)
class Difference:
    """One largest difference: where, how large, and how large it may be."""

    what: str
    value: float
    tolerance: float

    @property
    def exceeds(self) -> bool:
        return not self.value <= self.tolerance  # so written, NaN exceeds

    def __str__(self) -> str:
        mark = "  EXCEEDS IT" if self.exceeds else ""
        return f"{self.what} {self.value:.2g} (tolerance {self.tolerance:.2g}){mark}"


@dataclass
class Results:
    """What one detector gave for a batch; losses and gradients are None where there were no targets."""

    detections: list[dict[str, Tensor]]
    losses: dict[str, Tensor] | None
    gradients: dict[str, Tensor] | None
    dtype: torch.dtype


def parse_batch(batch: Any) -> tuple[list[Tensor], list[Target] | None]:
    """``(images, targets)`` or images alone.

    Raises:
        ValueError: anything else, or another number of targets than of images.
    """
    images, targets = batch, None
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and not isinstance(batch[1], Tensor):
        images, targets = batch
    if not isinstance(images, (tuple, list)) or not all(isinstance(image, Tensor) for image in images):
        raise ValueError(
            "accelerate: expected verify as (images, targets) or images, lists as the model takes them, "
            f"got {type(images).__name__}"
        )
    if targets is not None and len(targets) != len(images):
        raise ValueError(
            f"accelerate: expected verify with a target for each of {len(images)} images, got {len(targets)}"
        )
    return list(images), None if targets is None else list(targets)


def results(model: nn.Module, images: Sequence[Tensor], targets: Sequence[Target] | None) -> Results:
    """Run ``model`` in training and in evaluation. Gradients, buffers, modes and random states stay as they were."""
    losses = gradients = None
    if targets is not None:
        with _without_trace(model), torch.enable_grad():
            if not model.training:
                model.train()
            losses, gradients = _losses_and_gradients(model, images, targets)
    with _without_trace(model), torch.no_grad():
        if model.training:
            model.eval()
        detections = [dict(detection) for detection in model(list(images))]
    return Results(detections, losses, gradients, _compute_dtype(model))


def compare(path: str, got: Results, want: Results) -> list[Difference]:
    """The largest difference of each kind, of the detector at ``path``."""
    tolerance = _TOLERANCES.get(want.dtype, _TOLERANCES[torch.bfloat16])
    at = f"{path}: " if path else ""
    found: list[Difference] = []
    if want.losses is not None and got.losses is not None:
        for name, loss in want.losses.items():
            gap = _relative(got.losses[name], loss, loss.abs().double())
            found.append(Difference(f"{at}loss {name}, relative", gap, tolerance.loss))
    if want.gradients and got.gradients is not None:
        scales = {name: gradient.abs().max().double() for name, gradient in want.gradients.items()}
        least = _SMALLEST_SCALE * max(scales.values())
        gap, name = max(
            (_relative(got.gradients[name], gradient, torch.maximum(scales[name], least)), name)
            for name, gradient in want.gradients.items()
        )
        found.append(Difference(f"{at}gradient of {name}, of its largest value", gap, tolerance.gradient))
    return found + _compare_detections(at, got.detections, want.detections, tolerance)


def _compare_detections(
    at: str, got: Sequence[Detection], want: Sequence[Detection], tolerance: Tolerance
) -> list[Difference]:
    extent = max([1.0, *(float(d["boxes"].abs().max()) for d in want if len(d["boxes"]))])
    limit = tolerance.box * extent
    score_gap = box_gap = 0.0
    alone = total = 0
    for ours, theirs in zip(got, want, strict=True):
        rows, columns, scores, boxes = _partners(ours, theirs, tolerance.score, limit)
        alone += _count_alone(ours, theirs, rows, columns, tolerance.score)
        total += len(theirs["scores"])
        if rows:
            score_gap = max(score_gap, float(scores[rows, columns].max()))
            box_gap = max(box_gap, float(boxes[rows, columns].max()))
    if total == 0:
        what = "detections, of which this batch has none to compare (at a lower score_thresh it would)"
        return [Difference(f"{at}{what}", alone, 0.0)]
    return [
        Difference(f"{at}score", score_gap, tolerance.score),
        Difference(f"{at}box, pixels", box_gap, limit),
        Difference(
            f"{at}of {total} detections, without an equal", alone, max(1.0, tolerance.unpaired * total)
        ),
    ]


def _partners(
    ours: Detection, theirs: Detection, score_limit: float, box_limit: float
) -> tuple[list[int], list[int], Tensor, Tensor]:
    """Pairs of detections of one label within the limits, and the gaps of scores and boxes of all pairs."""
    scores = (ours["scores"].double()[:, None] - theirs["scores"].double()[None]).abs().cpu()
    boxes = (ours["boxes"].double()[:, None] - theirs["boxes"].double()[None]).abs().amax(-1).cpu()
    near = (
        (ours["labels"][:, None] == theirs["labels"][None]).cpu()
        & (scores <= score_limit)
        & (boxes <= box_limit)
    )
    rows: list[int] = []
    columns: list[int] = []
    for row in range(len(near)):
        choices = near[row].nonzero()[:, 0]
        if len(choices):
            column = int(choices[boxes[row, choices].argmin()])
            near[:, column] = False
            rows.append(row)
            columns.append(column)
    return rows, columns, scores, boxes


def _count_alone(
    ours: Detection, theirs: Detection, rows: Sequence[int], columns: Sequence[int], score_limit: float
) -> int:
    """How many detections have no partner.

    Two lists of one length may have been cut among equal scores, where torchvision's order is not defined: what has the
    lowest score is not counted then.
    """
    same_length = len(ours["scores"]) == len(theirs["scores"])
    counts = []
    for detections, paired in ((ours, rows), (theirs, columns)):
        scores = detections["scores"].double().cpu()
        alone = torch.ones(len(scores), dtype=torch.bool)
        alone[list(paired)] = False
        if same_length and len(scores):
            alone &= scores > scores.min() + score_limit
        counts.append(int(alone.sum()))
    return max(counts)


def _losses_and_gradients(
    model: nn.Module, images: Sequence[Tensor], targets: Sequence[Target]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    losses = model(list(images), [dict(target) for target in targets])
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = torch.stack([loss.double() for loss in losses.values()]).sum()
    # Not backward(): that would add to .grad and set off what waits for it, such as DistributedDataParallel.
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True) if parameters else ()
    pairs = zip(parameters, gradients, strict=True)
    return (
        {name: loss.detach() for name, loss in losses.items()},
        {name: gradient for name, gradient in pairs if gradient is not None},
    )


def _relative(got: Tensor, want: Tensor, scale: Tensor) -> float:
    gap = float((got.double() - want.double()).abs().max())
    if math.isnan(gap):
        return math.inf  # which max() does not lose
    return gap / float(scale) if gap > 0 and scale > 0 else math.inf if gap > 0 else 0.0


def _compute_dtype(model: nn.Module) -> torch.dtype:
    """The narrowest dtype that the model computes in: its parameters', or autocast's."""
    parameter = next(model.parameters(), torch.empty(0))
    kind = parameter.device.type
    if parameter.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return parameter.dtype


@contextmanager
def _without_trace(model: nn.Module) -> Iterator[None]:
    """Whatever a run changes in the modules, their buffers and the random generators is as before afterwards."""
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    tables = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    numpy = sys.modules.get("numpy")
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(sorted(devices)))
        stack.callback(random.setstate, random.getstate())
        if numpy is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        try:
            yield
        finally:
            for module, before in attributes:
                vars(module).clear()
                vars(module).update(before)
            for table, entries in tables:
                table.clear()
                table.update(entries)
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
