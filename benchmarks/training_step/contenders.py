"""Who is compared: a model, its memory format, its optimizer and its precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.suites.evaluation import spread_logits
from benchmarks.training_step.works import Batch
from benchmarks.workload import Call

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# So small that no weight moves: every round computes the same.
SETTINGS: dict[str, Any] = {"lr": 1e-9, "momentum": 0.9, "weight_decay": 1e-4}
OURS, PEER = "ours", "torchvision"
CHANNELS_LAST, FUSED = "channels_last", "fused"


@dataclass(frozen=True)
class Contender:
    """A model in one arrangement. torchvision's own is NCHW, with torch's default optimizer."""

    provider: str
    channels_last: bool
    model: nn.Module
    evaluated: nn.Module  # the same weights, its logits spread so that some detections are found
    optimizers: dict[bool, torch.optim.Optimizer]  # by whether it is fused

    def name(self, fused: bool | None = None) -> str:
        """``ours``, or torchvision's with what it has beyond its defaults, as ``torchvision-channels_last-fused``."""
        if self.provider == OURS:
            return OURS
        extras = [CHANNELS_LAST] * self.channels_last + [FUSED] * bool(fused)
        return "-".join([PEER, *extras])

    def training(self, batch: Batch, device: torch.device, precision: str, fused: bool) -> Call:
        return partial(train_step, self.model, self.optimizers[fused], batch, device, PRECISIONS[precision])

    def evaluation(self, batch: Batch, device: torch.device, precision: str) -> Call:
        return partial(evaluate, self.evaluated, batch, device, PRECISIONS[precision])


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The loop's body, the same for both models: from images on the host to changed weights."""
    images, targets = batch.to(device)
    with autocast(device, dtype):
        losses: dict[str, Tensor] = model(images, targets)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    return losses


@torch.inference_mode()
def evaluate(model: nn.Module, batch: Batch, device: torch.device, dtype: torch.dtype) -> Any:
    images, _ = batch.to(device)
    with autocast(device, dtype):
        return model(images)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def contenders(
    ours: nn.Module, theirs: nn.Module | None, batch: Batch, device: torch.device
) -> Iterator[Contender]:
    """Ours as the program trains it, and torchvision's in both memory formats, all of equal weights."""
    spread = copy.deepcopy(ours).eval().to(device)
    spread_logits(spread, batch.to(device)[0])
    yield _contender(OURS, ours, spread, device, channels_last=True)
    if theirs is None:
        return
    theirs.load_state_dict(ours.state_dict())
    evaluated = copy.deepcopy(theirs).eval()
    evaluated.load_state_dict(spread.state_dict())
    for channels_last in (False, True):
        models = copy.deepcopy(theirs), copy.deepcopy(evaluated)
        yield _contender(PEER, *models, device, channels_last=channels_last)


def _contender(
    provider: str, model: nn.Module, evaluated: nn.Module, device: torch.device, *, channels_last: bool
) -> Contender:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for part in (model, evaluated):
        part.to(device, memory_format=layout)  # type: ignore[call-overload]
    model.train()
    # The program's is fused wherever torch has it.
    kinds = (True,) if provider == OURS else (False, True)
    optimizers: dict[bool, torch.optim.Optimizer] = {
        fused: torch.optim.SGD(model.parameters(), fused=fused or None, **SETTINGS) for fused in kinds
    }
    return Contender(provider, channels_last, model, evaluated, optimizers)
