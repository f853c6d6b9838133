"""Steps whose loss is not finite: they change nothing, and a message says where it began."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.data.dataset import to_model
from retinanet_fast.models import RetinaNet
from retinanet_fast.models.torchvision_parts import anchors_of


class BufferGuard:
    """Takes back what a step did to a model's buffers (batch norm's statistics), where a flag on the device says so."""

    def __init__(self, model: nn.Module) -> None:
        self._buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        self._kept: Tensor | None = None

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the buffers as they are."""
        if self._buffers:
            self._kept = _flat(self._buffers)

    @torch.no_grad()
    def take_back(self, bad: Tensor) -> None:
        """Restore them where ``bad``, one value on the device, is true: the host does not learn which."""
        if self._kept is None:
            return
        chosen = torch.where(bad.bool(), self._kept, _flat(self._buffers))
        parts = chosen.split([buffer.numel() for buffer in self._buffers])
        torch._foreach_copy_(self._buffers, [part.view_as(own) for part, own in zip(parts, self._buffers)])


def _flat(buffers: list[Tensor]) -> Tensor:
    return torch.cat([buffer.flatten() for buffer in buffers])


@torch.no_grad()
def explain(model: nn.Module, shares: Sequence[Batch], device: torch.device) -> str:
    """Where a loss that is not finite comes from: the levels and the images, found by doing the forward pass again.

    The weights must be those from before the step, and the caller's autocast that of the step.
    """
    guard = BufferGuard(model)
    guard.keep()
    faults = [fault for share in shares for fault in _faults(model, share, device)]
    guard.take_back(torch.ones((), device=device))
    return "; ".join(faults)


def _faults(model: nn.Module, share: Batch, device: torch.device) -> list[str]:
    everyone = f"images {_list(share.image_ids)}"
    if not isinstance(model, RetinaNet):
        return [everyone]
    batch, targets = model.transform(to_model(share.images, device), share.targets, share.sizes)
    outputs, features = model.network(batch.tensors)
    faults = []
    for name, levels in outputs.items():
        for number, level in enumerate(levels):
            finite = torch.isfinite(level.flatten(1)).all(1).tolist()
            if ids := [id for id, fine in zip(share.image_ids, finite) if not fine]:
                faults.append(f"{name} of level {number} is not finite in images {_list(ids)}")
    if faults:
        return faults
    assert targets is not None
    anchors = anchors_of(model.anchor_generator, batch, features)
    for row, image_id in enumerate(share.image_ids):
        one = slice(row, row + 1)
        own_targets = {name: tensor[one] for name, tensor in targets.items()}
        own_outputs = {name: [level[one] for level in levels] for name, levels in outputs.items()}
        losses = model.compute_loss(own_targets, own_outputs, anchors)
        wrong = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        if wrong:
            faults.append(f"{' and '.join(wrong)} of image {image_id}, whose logits and deltas are finite")
    return faults or [f"{everyone}: each is finite alone"]


def _list(ids: Sequence[int]) -> str:
    return ", ".join(str(id) for id in ids[:8]) + (", ..." if len(ids) > 8 else "")
