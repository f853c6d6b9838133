"""Suppression and detection under vmap; under the transforms that differentiate they need nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch

from retinanet_fast._transforms.batch import one_by_one, vmap_rule


@vmap_rule("retinanet_detect")
def _retinanet_detect_rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> tuple[Any, Any]:
    return one_by_one(torch.ops.retinanet_fast.retinanet_detect.default, info.batch_size, in_dims, arguments)


@vmap_rule("nms")
def _nms_rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> NoReturn:
    _refuse("nms")


@vmap_rule("batched_nms")
def _batched_nms_rule(info: Any, in_dims: Sequence[Any], *arguments: Any) -> NoReturn:
    _refuse("batched_nms")


def _refuse(op: str) -> NoReturn:
    raise NotImplementedError(
        f"{op}: expected no vmap, under which each result would have a length of its own; "
        "retinanet_fast.ops.padded_batched_nms takes a batch, under vmap too, and pads its results to one length"
    )
