"""The optimizer's step in a few launches, which the device itself may decide to leave out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.memory_order import memory_order

# As in torch.nn.utils.clip_grad_norm_.
CLIP_EPSILON = 1e-6


def make_optimizer(recipe: Recipe, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """SGD with momentum, or AdamW, of the weights that are trained; fused on every device.

    Its state is there from the start: a first step that is left out would else leave a momentum of no value, and a
    captured step has to find its tensors in place. On a GPU the learning rate is a tensor, which a captured step reads.

    Args:
        recipe: its ``optimizer``, ``lr``, ``momentum`` and ``weight_decay``.
        model: on ``device`` already, in its memory format.
        device: of the model.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    on_gpu = device.type == "cuda"
    options: dict[str, Any] = {
        "lr": torch.tensor(recipe.lr, dtype=torch.float32, device=device) if on_gpu else recipe.lr,
        "weight_decay": recipe.weight_decay,
        "fused": True,
    }
    if recipe.optimizer == "sgd":
        sgd = torch.optim.SGD(parameters, momentum=recipe.momentum, **options)
        if recipe.momentum:
            for parameter in parameters:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    adamw = torch.optim.AdamW(parameters, capturable=on_gpu, **options)
    for parameter in parameters:
        adamw.state[parameter] = {
            "step": torch.zeros((), device=device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adamw


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The next step's learning rate, also of a captured step; the host does not wait."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def apply(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    clip_norm: float,
    bad: Tensor,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """One step of the optimizer with the gradients' norm clipped; the device leaves it out where a number is bad.

    With n the L2 norm of all gradients, the gradients are divided by max(1, (n + 1e-6) / clip_norm), within the
    optimizer's own kernel: ``torch.nn.utils.clip_grad_norm_`` and a step, without reading and writing the gradients
    once more. Where ``bad`` is set or n is not finite, the step changes nothing: no weight, no moment and no count of
    steps. The host neither waits nor knows, so the whole may be captured in a CUDA graph. The gradients are of no use
    afterwards.

    Args:
        optimizer: of ``make_optimizer``.
        parameters: all that the optimizer has.
        clip_norm: the largest norm; 0 does not clip.
        bad: a scalar on the parameters' device, bool or of any number type; not 0 leaves the step out.
        scaler: for float16, the one that scaled the loss. Its scale and the clipping are one factor, and it is updated.

    Returns:
        n, of the unscaled gradients: a float32 scalar on the device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if scaler is not None:
        norm = norm / scaler.scale(norm.new_ones(()))
    bad = bad.bool() | ~norm.isfinite()
    # grad_scale and found_inf are the names by which GradScaler speaks to a fused optimizer.
    fused: Any = optimizer
    if clip_norm > 0:
        fused.grad_scale = ((norm + CLIP_EPSILON) / clip_norm).clamp(min=1.0)
    if scaler is not None:
        # It looks for bad numbers in the gradients alone, multiplies its scale to ours, and removes both names.
        gradients[0].masked_fill_(bad, torch.nan)
        scaler.step(optimizer)
        scaler.update()
        return norm
    fused.found_inf = bad.float()
    with memory_order(optimizer):
        optimizer.step()
    for name in ("grad_scale", "found_inf"):
        fused.__dict__.pop(name, None)
    return norm


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], source: Path) -> None:
    """Give the optimizer the moments and counts of a ``state_dict``; the recipe's own settings are kept.

    They are copied into the tensors that are there, whose memory format is the weights', and which a captured step
    knows.

    Raises:
        InputError: the state is of another optimizer, or absent.
    """
    refused = InputError(f"{source}: holds no state of this optimizer to resume from")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved = state.get("state", {})
    groups = state.get("param_groups", [])
    indices = [index for group in groups for index in group["params"]]
    if len(indices) != len(parameters):
        raise refused
    for index, parameter in zip(indices, parameters, strict=True):
        own, found = optimizer.state[parameter], saved.get(index, {})
        if own.keys() != found.keys() or any(own[key].shape != found[key].shape for key in own):
            raise refused
    for index, parameter in zip(indices, parameters, strict=True):
        for key, tensor in optimizer.state[parameter].items():
            tensor.copy_(saved[index][key])
