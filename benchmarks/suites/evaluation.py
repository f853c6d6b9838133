"""Whole images through a ResNet-50 model, and the share of its post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inputs import anchor_grid, nbytes
from benchmarks.workload import Case, Setting, register

IMAGES, CLASSES = 2, 91


def _level_outputs(model: nn.Module, images: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What the head's two last convolutions return on each level while the model runs."""
    logits: list[Tensor] = []
    deltas: list[Tensor] = []
    head: Any = model.head
    hooks = [
        head.classification_head.cls_logits.register_forward_hook(lambda *call: logits.append(call[-1])),
        head.regression_head.bbox_reg.register_forward_hook(lambda *call: deltas.append(call[-1])),
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return logits, deltas


def spread_logits(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Move a fresh model's logits to N(-4, 1.5): with the initial bias none is above the threshold."""
    head: Any = model.head
    last = head.classification_head.cls_logits
    with torch.no_grad():
        for _ in range(2):  # the first pass sets the spread, the second the mean
            logits = torch.cat([level.flatten() for level in _level_outputs(model, images)[0]])
            last.weight *= 1.5 / logits.std()
            last.bias += -4 - logits.mean()


@cache
def _model_and_images(device: torch.device, size: int) -> tuple[nn.Module, list[Tensor]]:
    from retinanet_fast.models import retinanet_resnet50_fpn

    torch.manual_seed(0)
    options: dict[str, Any] = {"min_size": size, "max_size": size, "num_classes": CLASSES}
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options).to(device).eval()
    images = [torch.rand(3, size, size, device=device) for _ in range(IMAGES)]
    spread_logits(model, images)
    return model, images


def _torchvision_twin(model: nn.Module, size: int, device: torch.device) -> nn.Module | None:
    try:
        from torchvision.models.detection import retinanet_resnet50_fpn
    except ImportError:
        return None
    options = {"min_size": size, "max_size": size, "num_classes": CLASSES}
    twin: nn.Module = retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options)
    twin.load_state_dict(model.state_dict())
    return twin.to(device).eval()


def whole_model(setting: Setting) -> Case:
    size = setting.size(512, 128)
    model, images = _model_and_images(setting.device, size)

    def evaluate(network: nn.Module) -> Any:
        with torch.inference_mode():
            return network(images)

    calls = {"ours": partial(evaluate, model)}
    twin = _torchvision_twin(model, size, setting.device)
    if twin is not None:
        calls["torchvision"] = partial(evaluate, twin)
    return Case(
        op="evaluate",
        args=(),
        calls=calls,
        shape=f"ResNet-50, {IMAGES} x {size} px, {CLASSES} classes",
        bytes_moved=nbytes(*model.parameters(), *images),
        checked=False,  # there is no twin of a model; the tests compare it with torchvision's
    )


def postprocess(setting: Setting) -> Case:
    size = setting.size(512, 128)
    model, images = _model_and_images(setting.device, size)
    logits, deltas = _level_outputs(model, images)
    return Case(
        op="retinanet_detect",
        args=(logits, deltas, anchor_grid(size, setting.device), [(size, size)] * IMAGES),
        shape=f"the level outputs of evaluation/model, {IMAGES} x {size} px",
        bytes_moved=nbytes(*logits),
        logits_bytes=nbytes(*logits),
        peer_rows=0.98,  # torch's topk leaves ties undefined
    )


register("evaluation/model", whole_model, providers=("ours", "torchvision"))
register("evaluation/postprocess", postprocess, providers=("ours", "torchvision"))
