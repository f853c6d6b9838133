"""mmdetection's RetinaNet as ours (open-mmlab/mmdetection, versions 2 and 3).

| mmdetection | here |
|---|---|
| anchors of a cell by ratio, then size | the same |
| classes from 0, no background | from 1 where the model has room for the background |
| ``style="caffe"``: BGR images of 0 to 255, standard deviation 1 | folded into the first convolution |
| ``style="caffe"``: stride in a bottleneck's 1x1 convolution | a setting of ``ResNet`` |
| no ReLU between P6 and P7 | a setting of ``LastLevelP6P7`` |
| anchors not rounded, at strides 8 to 128 | ``retinanet_anchor_generator(exact=True)`` |
| P6 from C5, or from P5 | seen in the shape of P6's weight |

A checkpoint's ``meta`` holds its configuration as text, from which the style is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from retinanet_fast.models.weights.preprocessing import CAFFE, TORCHVISION, Preprocessing, fold, notes_on_mean
from retinanet_fast.models.weights.settings import Settings
from retinanet_fast.models.weights.state import BBOX_REG, BODY, CLS_LOGITS, Weights

__all__ = ["convert", "is_mmdetection"]

_FPN = re.compile(r"neck\.(lateral|fpn)_convs\.([0-4])\.conv\.(weight|bias)")
_TOWER = re.compile(r"bbox_head\.(cls|reg)_convs\.(\d)\.(conv|bn|gn)\.(\w+)")
_PLAIN = {"bbox_head.retina_cls.": CLS_LOGITS, "bbox_head.retina_reg.": BBOX_REG, "backbone.": BODY}
LEVELS = 3  # C3 to C5; the convolutions after those of the levels are P6's and P7's


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the names of mmdetection's RetinaNet."""
    return any(name.startswith("bbox_head.retina_") for name in state)


def convert(
    state: dict[str, Tensor], meta: Mapping[str, Any], source: str, caffe_style: bool | None = None
) -> Weights:
    """Today's names, layout and preprocessing; names that are not known stay, to be reported as not used.

    Args:
        meta: the checkpoint's ``meta``, or an empty dict.
        caffe_style: whether the ResNet is of ``style="caffe"``. By default what the configuration in ``meta`` says, and
            without one, not.

    Raises:
        ValueError: a model whose anchors, box coding or pyramid differ from ours.
    """
    config = next((meta[key] for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    _check(str(meta.get("mmdet_version", "")), config, source)
    trained, caffe_style, notes = _trained(config, caffe_style)
    return Weights(
        fold({_name(name): tensor for name, tensor in state.items()}, trained),
        source,
        Settings(1e-5, caffe_style, "relu_before_extra_convs=True" in config.replace(" ", "")),
        background=False,
        exact_anchors=True,
        notes=notes,
    )


def _name(name: str) -> str:
    if match := _FPN.fullmatch(name):
        kind, index, parameter = match.group(1), int(match.group(2)), match.group(3)
        if kind == "fpn" and index >= LEVELS:
            return f"backbone.fpn.extra_blocks.p{index - LEVELS + 6}.{parameter}"
        blocks = "inner_blocks" if kind == "lateral" else "layer_blocks"
        return f"backbone.fpn.{blocks}.{index}.0.{parameter}"
    if match := _TOWER.fullmatch(name):
        kind, number, module, parameter = match.groups()
        head = "classification_head" if kind == "cls" else "regression_head"
        return f"head.{head}.conv.{number}.{0 if module == 'conv' else 1}.{parameter}"
    for theirs, ours in _PLAIN.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _check(version: str, config: str, source: str) -> None:
    text = re.sub(r"\s", "", config)
    stds = re.findall(r"target_stds=\[([^\]]*)\]", text)
    reasons = {
        f"of mmdetection {version}, whose anchors and boxes are those of before version 2": version.startswith(
            ("0.", "1.")
        ),
        "whose P6 comes from a lateral convolution": "add_extra_convs='on_lateral'" in text,
        f"whose box deltas are divided by ({stds[0] if stds else ''})": any(
            float(std) != 1 for numbers in stds for std in numbers.split(",") if std
        ),
    }
    for reason, found in reasons.items():
        if found:
            raise ValueError(f"{source}: a RetinaNet {reason}; this is not read")


def _trained(config: str, caffe_style: bool | None) -> tuple[Preprocessing, bool, list[str]]:
    """The images that the weights were trained on, whether the ResNet is Caffe's, and what to say of it."""
    text = re.sub(r"\s", "", config)
    said = caffe_style is not None or bool(text)
    if caffe_style is None:
        caffe_style = "style='caffe'" in text
    trained = CAFFE if caffe_style else TORCHVISION
    rgb = re.search(r"(?:bgr_)?to_rgb=(True|False)", text)
    numbers = [re.search(rf"\b{name}=\[([\d.,]+)\]", text) for name in ("mean", "std")]
    if rgb and all(numbers):
        mean, std = (tuple(float(n) for n in m.group(1).split(",") if n) for m in numbers if m)
        trained = Preprocessing(rgb.group(1) == "False", mean, std)
    notes = [
        f"mmdetection's, {'' if said else 'taken to be '}of style {'caffe' if caffe_style else 'pytorch'}"
        + ("" if said else f"; if not so, give caffe_style={not caffe_style}")
    ]
    return trained, caffe_style, notes + notes_on_mean(trained)
