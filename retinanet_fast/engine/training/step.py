"""One step: forward, backward, and a change of the weights, without a wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.data.dataset import to_model
from retinanet_fast.engine.precision import autocast, resolve
from retinanet_fast.engine.training.nonfinite import BufferGuard
from retinanet_fast.engine.training.optimizer import apply, set_learning_rate
from retinanet_fast.engine.training.run import Run

# The losses of a share of a batch, by name; each is a mean over the share's images.
Losses = Callable[[nn.Module, Batch], Mapping[str, Tensor]]


def detector_losses(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
    """The losses that the detector itself returns in training."""
    packed = batch.packed
    images = to_model(batch.images, batch.device) if packed is None else packed
    losses: Mapping[str, Tensor] = model(images, batch.targets, batch.sizes)
    return losses


class TrainStep:
    """Changes ``run.state`` by one batch.

    The gradient is that of the mean loss over the images of the whole batch, whatever the number of processes and
    parts (``accumulate``) it is cut into. Where the loss, or in float32 and bfloat16 the gradient, of any process is
    not finite, no process changes anything.

    Args:
        run: gives model, optimizer, precision and processes.
        losses: called with the model, in its distributed wrapper where there are several processes, and a share.
    """

    def __init__(self, run: Run, losses: Losses = detector_losses) -> None:
        self.run = run
        self.losses = losses
        self.clock: Callable[[str], AbstractContextManager[None]] = run.clock
        self.names: list[str] = []
        state = run.state
        self.parameters = [p for p in state.model.parameters() if p.requires_grad]
        self.network = _distributed(run) if run.processes.world_size > 1 else state.model
        self.guard = BufferGuard(state.model)
        self.dtype = resolve(run.recipe.precision, run.device)
        # Where more steps in a row were bad than the policy allows, nothing changes until the host has heard of it.
        self.most_in_row = run.recipe.max_skips if run.recipe.nonfinite == "skip" else 0
        self.in_row = torch.full((), float(state.skipped_in_row), device=run.device)
        self.stuck = torch.zeros((), device=run.device)

    def __call__(self, shares: Sequence[Batch], rate: float, flags: Sequence[bool] = ()) -> Tensor:
        """One step with this process's shares of a batch.

        Returns:
            On the device, summed over all processes: the losses, in the order of ``names``; whether one was not finite
            (above 0), and ``flags``.
        """
        run, state = self.run, self.run.state
        # Random layers draw the same in a resumed run; processes draw differently.
        torch.manual_seed(hash((run.recipe.seed, state.step, run.processes.rank)) % 2**63)
        set_learning_rate(state.optimizer, rate)
        # Filled on the device: a copy from the host's memory would wait for it.
        found = self.compute(shares, [torch.full((), float(flag), device=run.device) for flag in flags])
        if state.ema is not None:
            with self.clock("optimizer"):
                left_out = torch.maximum(found[len(self.names)], self.stuck)
                state.ema.update(state.model, state.step, left_out)
        return found

    def compute(self, shares: Sequence[Batch], marks: Sequence[Tensor]) -> Tensor:
        """What the device does of a step, given the learning rate: no value of it is known to the host."""
        run, state = self.run, self.run.state
        self.guard.keep()
        state.optimizer.zero_grad(set_to_none=True)
        parts = [self._share(share, last=share is shares[-1]) for share in shares]
        losses = torch.stack(parts).sum(0)
        found = torch.stack([*losses, (~torch.isfinite(losses)).any().float(), *marks])
        run.processes.sum_(found)
        with self.clock("optimizer"):
            bad = found[len(losses)]
            clip = run.recipe.clip_norm
            left_out = torch.maximum(bad, self.stuck)
            if state.scaler.is_enabled():
                # Gradients beyond float16 are the scaler's to handle: it leaves the step out and scales less.
                apply(state.optimizer, self.parameters, clip, left_out, state.scaler)
            else:
                norm = apply(state.optimizer, self.parameters, clip, left_out)
                bad.copy_(torch.maximum(bad, (~norm.isfinite()).float()))
            self.in_row.add_(1).mul_(bad > 0)
            torch.maximum(self.stuck, (self.in_row > self.most_in_row).float(), out=self.stuck)
            self.guard.take_back(torch.maximum(bad, self.stuck))
        return found

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the forward pass."""
        return autocast(self.run.device, self.dtype)

    def _share(self, share: Batch, last: bool) -> Tensor:
        """Add a share's gradient; returns its part of the batch's losses."""
        clock, processes = self.clock, self.run.processes
        with self._exchange(last):
            with clock("forward"), self._loss_phase(), self.autocast():
                losses = self.losses(self.network, share)
                self.names = list(losses)
                found = share.weight * torch.stack([loss.float() for loss in losses.values()])
            with clock("backward"):
                # DistributedDataParallel takes the mean over the processes; theirs is to be a sum.
                self.run.state.scaler.scale(processes.world_size * found.sum()).backward()
        return found.detach()

    @contextmanager
    def _loss_phase(self) -> Iterator[None]:
        """Count matching and loss, which are within the forward pass, as a phase of their own, for the time of the
        block. It is what a detector does in ``compute_loss``; a model without it has no such phase."""
        model: Any = self.run.state.model
        compute_loss = getattr(model, "compute_loss", None)
        if compute_loss is None:
            yield
            return

        def clocked(*arguments: Any, **keywords: Any) -> Any:
            with self.clock("loss"):
                return compute_loss(*arguments, **keywords)

        own = vars(model).get("compute_loss")
        model.compute_loss = clocked
        try:
            yield
        finally:
            del model.compute_loss
            if own is not None:
                model.compute_loss = own

    def _exchange(self, last: bool) -> AbstractContextManager[object]:
        """Gradients are summed over the processes once, with the last share."""
        if isinstance(self.network, DistributedDataParallel) and not last:
            return self.network.no_sync()
        return nullcontext()


def _distributed(run: Run) -> DistributedDataParallel:
    devices = [run.device] if run.device.type == "cuda" else None
    return DistributedDataParallel(run.state.model, device_ids=devices, gradient_as_bucket_view=True)
