"""detectron2's RetinaNet and ResNets as ours (facebookresearch/detectron2 at 02b5c4e).

| detectron2 | here |
|---|---|
| anchors of a cell by size, then ratio | by ratio, then size: the rows of both output convolutions change places |
| classes from 0, no background | from 1 where the model has room for the background |
| BGR images of 0 to 255, standard deviation 1 (its MSRA ResNets) | folded into the first convolution |
| stride in a bottleneck's 1x1 convolution (its MSRA ResNets) | a setting of ``ResNet`` |
| anchors not rounded, at strides 8 to 128 | ``retinanet_anchor_generator(exact=True)`` |
| P6 from C5 | seen in the shape of P6's weight |
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from retinanet_fast.models.weights.preprocessing import CAFFE, TORCHVISION, Preprocessing, fold, notes_on_mean
from retinanet_fast.models.weights.settings import Settings
from retinanet_fast.models.weights.state import BBOX_REG, BODY, CLS_LOGITS, Weights

__all__ = ["convert", "is_detectron2", "refuse_caffe2"]

_BOTTOM_UP = re.compile(r"(backbone\.bottom_up\.)?(stem|res[2-5]\.\d+)\.(conv[123]|shortcut)\.(norm\.)?(\w+)")
_FPN = re.compile(r"backbone\.fpn_(lateral|output)([345])\.(weight|bias)")
_TOWER = re.compile(r"head\.(cls|bbox)_subnet\.([0246])\.(weight|bias)")
_PLAIN = {
    "backbone.top_block.": "backbone.fpn.extra_blocks.",
    "head.cls_score.": CLS_LOGITS,
    "head.bbox_pred.": BBOX_REG,
}
_CELLS = "anchor_generator.cell_anchors.0"
# What is not a weight; of old checkpoints.
_IGNORED = re.compile(r"pixel_(mean|std)|anchor_generator\..*|(backbone\.bottom_up\.)?(stem\.fc|linear)\..*")
_CAFFE2 = re.compile(r"res\d_\d+_branch\d.*|conv1_w")


def refuse_caffe2(names: Iterable[str], source: str) -> None:
    """Raise an error for the names of Caffe2, which some of detectron2's ImageNet models have."""
    if any(_CAFFE2.fullmatch(name) for name in names):
        raise ValueError(
            f"{source}: the names of a Caffe2 ResNet (res2_0_branch2a_w, ...), which are not read; load it with "
            "detectron2 and save the model's state dict"
        )


def is_detectron2(state: Iterable[str]) -> bool:
    """Whether these are detectron2's names."""
    return any(name.startswith(("backbone.bottom_up.", "stem.conv1.norm.")) for name in state)


def convert(state: dict[str, Tensor], source: str, caffe_style: bool | None = None) -> Weights:
    """Today's names, layout and preprocessing; names that are not known stay, to be reported as not used.

    Args:
        caffe_style: whether the ResNet came from the MSRA's Caffe models. By default so if the file's ``pixel_std`` is
            1, and where it has none (as the model zoo's) unless it is a ResNeXt.

    Raises:
        ValueError: anchors whose sizes and ratios cannot be told apart.
    """
    trained, caffe_style, notes = _trained(state, caffe_style)
    renamed = {_name(name, state): tensor for name, tensor in state.items() if not _IGNORED.fullmatch(name)}
    for name in [name for name in renamed if name.startswith((CLS_LOGITS, BBOX_REG))]:
        renamed[name] = _ratio_major(renamed[name], _counts(state, renamed, source))
    return Weights(
        fold(renamed, trained),
        source,
        Settings(frozen_eps=1e-5, stride_in_1x1=caffe_style, relu_before_p7=True),
        background=False,
        exact_anchors=True,
        notes=notes,
    )


def _name(name: str, state: dict[str, Tensor]) -> str:
    if match := _BOTTOM_UP.fullmatch(name):
        prefix, block, conv, norm, kind = match.groups()
        stage = "" if block == "stem" else f"layer{int(block[3]) - 1}{block[4:]}."
        if conv == "shortcut":
            module = "downsample.1" if norm else "downsample.0"
        else:
            module = f"bn{conv[-1]}" if norm else conv
        return f"{BODY if prefix else ''}{stage}{module}.{kind}"
    if match := _FPN.fullmatch(name):
        kind, level, parameter = match.groups()
        blocks = "inner_blocks" if kind == "lateral" else "layer_blocks"
        return f"backbone.fpn.{blocks}.{int(level) - 3}.0.{parameter}"
    # Every second module is a ReLU. With norms, which are counted too, the convolutions have biases, and ours do not.
    if (match := _TOWER.fullmatch(name)) and "head.cls_subnet.1.weight" not in state:
        kind, index, parameter = match.groups()
        head = "classification_head" if kind == "cls" else "regression_head"
        return f"head.{head}.conv.{int(index) // 2}.0.{parameter}"
    for theirs, ours in _PLAIN.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _trained(state: dict[str, Tensor], caffe_style: bool | None) -> tuple[Preprocessing, bool, list[str]]:
    """The images that the weights were trained on, whether the ResNet is Caffe's, and what to say of it."""
    in_file = "pixel_mean" in state and "pixel_std" in state
    mean, std = (
        tuple(state[name].flatten().tolist()) if in_file else () for name in ("pixel_mean", "pixel_std")
    )
    first = next((name for name in state if name.endswith("res2.0.conv2.weight")), None)
    is_resnext = first is not None and state[first].shape[0] != state[first].shape[1]
    said = caffe_style is not None or in_file
    if caffe_style is None:
        caffe_style = all(s == 1 for s in std) if in_file else not is_resnext
    if in_file:
        trained = Preprocessing(mean[0] < mean[2], mean, std)
    elif caffe_style:
        trained = CAFFE
    else:
        trained = TORCHVISION._replace(
            bgr=is_resnext,
            mean=TORCHVISION.mean[::-1] if is_resnext else TORCHVISION.mean,
            std=TORCHVISION.std[::-1] if is_resnext else TORCHVISION.std,
        )
    notes = [
        f"detectron2's, {'' if said else 'taken to be '}of {'BGR' if trained.bgr else 'RGB'} images with stride in the "
        f"{'1x1' if caffe_style else '3x3'} convolutions"
        + ("" if said else f"; if not so, give caffe_style={not caffe_style}")
    ]
    return trained, caffe_style, notes + notes_on_mean(trained)


def _counts(state: dict[str, Tensor], renamed: dict[str, Tensor], source: str) -> tuple[int, int]:
    """How many sizes and how many ratios the anchors of a cell have."""
    num_anchors = renamed[f"{BBOX_REG}bias"].numel() // 4 if f"{BBOX_REG}bias" in renamed else 9
    if _CELLS in state:
        x1, y1, x2, y2 = state[_CELLS].double().unbind(1)
        ratios = len(torch.unique(((y2 - y1) / (x2 - x1)).log2().mul(100).round()))
        return num_anchors // ratios, ratios
    if num_anchors == 9:
        return 3, 3
    if num_anchors in (1, 2, 3, 5, 7):
        return num_anchors, 1  # one size or one ratio: the order is the same
    raise ValueError(
        f"{source}: {num_anchors} anchors per cell: which are sizes and which ratios is not in the file, and "
        "detectron2 orders them otherwise; 9 are taken for 3 sizes of 3 ratios"
    )


def _ratio_major(tensor: Tensor, counts: tuple[int, int]) -> Tensor:
    sizes, ratios = counts
    return tensor.unflatten(0, (sizes, ratios, -1)).transpose(0, 1).flatten(0, 2)
