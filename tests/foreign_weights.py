"""detectron2's and mmdetection's RetinaNet-R50: the tensors of their state dicts, and what they compute with them.

The names are those of detectron2 at 02b5c4e (modeling/backbone/{resnet,fpn}.py, meta_arch/retinanet.py, as
configs/COCO-Detection/retinanet_R_50_FPN_3x.yaml puts them together) and of mmdetection 3 (models/backbones/resnet.py,
necks/fpn.py, dense_heads/retina_head.py, configs/_base_/models/retinanet_r50_fpn.py). The forward passes are plain
functions of such a state dict, written from those sources, in their own order and on their own images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
NUM_CLASSES, NUM_ANCHORS, CHANNELS = 5, 9, 256
DEPTHS = (3, 4, 6, 3)
# MODEL.PIXEL_MEAN of detectron2, for BGR images of 0 to 255; its PIXEL_STD is 1.
BGR_MEAN = (103.530, 116.280, 123.675)
# data_preprocessor of mmdetection's style="pytorch", for RGB images of 0 to 255.
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class _Maker:
    """Tensors that keep activations of order 1."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)

    def conv(self, name: str, inputs: int, outputs: int, size: int, bias: bool = True) -> None:
        std = math.sqrt(2 / (inputs * size * size))
        self.state[f"{name}.weight"] = self._randn(outputs, inputs, size, size) * std
        if bias:
            self.state[f"{name}.bias"] = self._randn(outputs) * 0.1

    def norm(self, name: str, channels: int, scale: float = 1.0) -> None:
        self.state[f"{name}.weight"] = scale * (1 + 0.1 * self._randn(channels))
        self.state[f"{name}.bias"] = 0.1 * self._randn(channels)
        self.state[f"{name}.running_mean"] = 0.1 * self._randn(channels)
        self.state[f"{name}.running_var"] = 1 + 0.1 * self._randn(channels).abs()

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def resnet(
        self, block: Callable[[int, int], str], shortcut: tuple[str, str], norm: Callable[[str, int], str]
    ) -> None:
        inputs = 64
        for stage, depth in enumerate(DEPTHS):
            width, outputs = 64 * 2**stage, 256 * 2**stage
            for index in range(depth):
                name = block(stage, index)
                for conv, (a, b, size) in enumerate(
                    ((inputs, width, 1), (width, width, 3), (width, outputs, 1)), start=1
                ):
                    self.conv(f"{name}.conv{conv}", a, b, size, bias=False)
                    self.norm(norm(name, conv), b, scale=0.3 if conv == 3 else 1.0)
                if index == 0:
                    self.conv(f"{name}.{shortcut[0]}", inputs, outputs, 1, bias=False)
                    self.norm(f"{name}.{shortcut[1]}", outputs)
                inputs = outputs


def detectron2_state(seed: int = 0) -> State:
    """As in the model zoo's files, which have no ``pixel_mean``."""
    made = _Maker(seed)
    made.conv("backbone.bottom_up.stem.conv1", 3, 64, 7, bias=False)
    made.state["backbone.bottom_up.stem.conv1.weight"] /= 60  # images of standard deviation about 60
    made.norm("backbone.bottom_up.stem.conv1.norm", 64)
    made.resnet(
        lambda stage, index: f"backbone.bottom_up.res{stage + 2}.{index}",
        ("shortcut", "shortcut.norm"),
        lambda name, conv: f"{name}.conv{conv}.norm",
    )
    for level, inputs in ((3, 512), (4, 1024), (5, 2048)):
        made.conv(f"backbone.fpn_lateral{level}", inputs, CHANNELS, 1)
        made.conv(f"backbone.fpn_output{level}", CHANNELS, CHANNELS, 3)
    made.conv("backbone.top_block.p6", 2048, CHANNELS, 3)
    made.conv("backbone.top_block.p7", CHANNELS, CHANNELS, 3)
    for subnet in ("cls_subnet", "bbox_subnet"):
        for index in (0, 2, 4, 6):
            made.conv(f"head.{subnet}.{index}", CHANNELS, CHANNELS, 3)
    made.conv("head.cls_score", CHANNELS, NUM_ANCHORS * NUM_CLASSES, 3)
    made.conv("head.bbox_pred", CHANNELS, NUM_ANCHORS * 4, 3)
    return made.state


def mmdetection_state(seed: int = 0) -> State:
    made = _Maker(seed)
    made.conv("backbone.conv1", 3, 64, 7, bias=False)
    made.norm("backbone.bn1", 64)
    made.resnet(
        lambda stage, index: f"backbone.layer{stage + 1}.{index}",
        ("downsample.0", "downsample.1"),
        lambda name, conv: f"{name}.bn{conv}",
    )
    for name in [name for name in made.state if name.endswith("running_var")]:
        made.state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    for index, inputs in enumerate((512, 1024, 2048)):
        made.conv(f"neck.lateral_convs.{index}.conv", inputs, CHANNELS, 1)
    for index, inputs in enumerate((CHANNELS, CHANNELS, CHANNELS, 2048, CHANNELS)):
        made.conv(f"neck.fpn_convs.{index}.conv", inputs, CHANNELS, 3)
    for tower in ("cls_convs", "reg_convs"):
        for index in range(4):
            made.conv(f"bbox_head.{tower}.{index}.conv", CHANNELS, CHANNELS, 3)
    made.conv("bbox_head.retina_cls", CHANNELS, NUM_ANCHORS * NUM_CLASSES, 3)
    made.conv("bbox_head.retina_reg", CHANNELS, NUM_ANCHORS * 4, 3)
    return made.state


def detectron2_outputs(state: State, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Logits and deltas of each level ``[B, H, W, size, ratio, C or 4]``, from RGB images in 0 to 1."""
    bgr = images.flip(1) * 255 - torch.tensor(BGR_MEAN).to(images)[:, None, None]
    stem = "backbone.bottom_up.stem.conv1"
    x = F.relu(_norm(state, f"{stem}.norm", _conv(state, stem, bgr, stride=2, padding=3)))
    features = []
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, depth in enumerate(DEPTHS):
        for index in range(depth):
            name = f"backbone.bottom_up.res{stage + 2}.{index}"
            stride = 2 if stage > 0 and index == 0 else 1
            out = _conv(state, f"{name}.conv1", x, stride=stride)  # STRIDE_IN_1X1
            out = F.relu(_norm(state, f"{name}.conv1.norm", out))
            out = F.relu(_norm(state, f"{name}.conv2.norm", _conv(state, f"{name}.conv2", out, padding=1)))
            out = _norm(state, f"{name}.conv3.norm", _conv(state, f"{name}.conv3", out))
            if index == 0:
                x = _norm(state, f"{name}.shortcut.norm", _conv(state, f"{name}.shortcut", x, stride=stride))
            x = F.relu(out + x)
        features.append(x)
    levels = _pyramid(state, features[1:], "backbone.fpn_lateral{}", "backbone.fpn_output{}", first=3)
    p6 = _conv(state, "backbone.top_block.p6", features[-1], stride=2, padding=1)
    levels += [p6, _conv(state, "backbone.top_block.p7", F.relu(p6), stride=2, padding=1)]
    towers = [[f"head.{kind}.{index}" for index in (0, 2, 4, 6)] for kind in ("cls_subnet", "bbox_subnet")]
    return _head(state, levels, towers, ("head.cls_score", "head.bbox_pred"))


def mmdetection_outputs(state: State, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Logits and deltas of each level ``[B, H, W, ratio, size, C or 4]``, from RGB images in 0 to 1."""
    mean, std = (torch.tensor(x).to(images)[:, None, None] for x in (RGB_MEAN, RGB_STD))
    x = _conv(state, "backbone.conv1", (images * 255 - mean) / std, stride=2, padding=3)
    x = F.max_pool2d(F.relu(_norm(state, "backbone.bn1", x)), 3, 2, 1)
    features = []
    for stage, depth in enumerate(DEPTHS):
        for index in range(depth):
            name = f"backbone.layer{stage + 1}.{index}"
            stride = 2 if stage > 0 and index == 0 else 1
            out = F.relu(_norm(state, f"{name}.bn1", _conv(state, f"{name}.conv1", x)))
            out = _conv(state, f"{name}.conv2", out, stride=stride, padding=1)  # style="pytorch"
            out = _norm(
                state, f"{name}.bn3", _conv(state, f"{name}.conv3", F.relu(_norm(state, f"{name}.bn2", out)))
            )
            if index == 0:
                x = _norm(
                    state, f"{name}.downsample.1", _conv(state, f"{name}.downsample.0", x, stride=stride)
                )
            x = F.relu(out + x)
        features.append(x)
    levels = _pyramid(state, features[1:], "neck.lateral_convs.{}.conv", "neck.fpn_convs.{}.conv", first=0)
    p6 = _conv(state, "neck.fpn_convs.3.conv", features[-1], stride=2, padding=1)
    levels += [
        p6,
        _conv(state, "neck.fpn_convs.4.conv", p6, stride=2, padding=1),
    ]  # relu_before_extra_convs=False
    towers = [[f"bbox_head.{kind}.{i}.conv" for i in range(4)] for kind in ("cls_convs", "reg_convs")]
    return _head(state, levels, towers, ("bbox_head.retina_cls", "bbox_head.retina_reg"))


def anchors(level: int, size_major: bool) -> Tensor:
    """The anchors of the first cell of P3 (0) to P7 (4), ``[size or ratio, ratio or size, 4]``."""
    boxes = torch.empty(3, 3, 4, dtype=torch.float64)
    for s in range(3):
        for r, ratio in enumerate((0.5, 1.0, 2.0)):
            size = 32 * 2**level * 2 ** (s / 3)
            w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
            boxes[(s, r) if size_major else (r, s)] = torch.tensor([-w, -h, w, h]) / 2
    return boxes


def _conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding)


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    keys = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys), training=False, eps=1e-5)


def _pyramid(state: State, features: list[Tensor], lateral: str, output: str, first: int) -> list[Tensor]:
    merged = [_conv(state, lateral.format(first + i), feature) for i, feature in enumerate(features)]
    for i in (1, 0):
        merged[i] = merged[i] + F.interpolate(merged[i + 1], scale_factor=2, mode="nearest")
    return [_conv(state, output.format(first + i), x, padding=1) for i, x in enumerate(merged)]


def _head(
    state: State, levels: list[Tensor], towers: list[list[str]], outputs: tuple[str, str]
) -> list[tuple[Tensor, Tensor]]:
    found = []
    for level in levels:
        pair = []
        for tower, output in zip(towers, outputs, strict=True):
            x = level
            for name in tower:
                x = F.relu(_conv(state, name, x, padding=1))
            # Channels [anchor, class] of both libraries, and an anchor is 3 times 3.
            pair.append(_conv(state, output, x, padding=1).unflatten(1, (3, 3, -1)).permute(0, 4, 5, 1, 2, 3))
        found.append((pair[0], pair[1]))
    return found
