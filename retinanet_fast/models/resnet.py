"""ResNet and ResNeXt without their classifiers (https://arxiv.org/abs/1512.03385, https://arxiv.org/abs/1611.05431).

Parameters have torchvision's names. As in torchvision, the stride of a bottleneck is in its 3x3 convolution, unless
``stride_in_1x1`` is set, for weights of ResNets that were trained so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ARCHITECTURES", "FrozenBatchNorm2d", "ResNet"]

Norm = Callable[[int], nn.Module]


class Architecture(NamedTuple):
    """What distinguishes one ResNet from another."""

    bottleneck: bool
    depths: tuple[int, int, int, int]  # blocks of layer1 to layer4
    groups: int = 1
    width_per_group: int = 64


ARCHITECTURES = {
    "resnet18": Architecture(False, (2, 2, 2, 2)),
    "resnet34": Architecture(False, (3, 4, 6, 3)),
    "resnet50": Architecture(True, (3, 4, 6, 3)),
    "resnet101": Architecture(True, (3, 4, 23, 3)),
    "resnet152": Architecture(True, (3, 8, 36, 3)),
    "resnext50_32x4d": Architecture(True, (3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x8d": Architecture(True, (3, 4, 23, 3), groups=32, width_per_group=8),
    "resnext101_64x4d": Architecture(True, (3, 4, 23, 3), groups=64, width_per_group=4),
}


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with constant statistics and parameters: ``(x - mean) / sqrt(var + eps) * weight + bias``."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # in the state of the trained BatchNorm2d
        super()._load_from_state_dict(state_dict, prefix, *args)


class ResNet(nn.Module):
    """A ResNet without its classifier: images ``[B, 3, H, W]`` to C3, C4 and C5, at strides 8, 16 and 32."""

    def __init__(self, architecture: Architecture, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        expansion = 4 if architecture.bottleneck else 1
        widths = [64 * expansion * 2**stage for stage in range(4)]
        self.layer1 = _stage(architecture, 0, 64, widths[0], norm)
        self.layer2 = _stage(architecture, 1, widths[0], widths[1], norm)
        self.layer3 = _stage(architecture, 2, widths[1], widths[2], norm)
        self.layer4 = _stage(architecture, 3, widths[2], widths[3], norm)
        self.out_channels = widths[1:]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c3 = self.layer2(self.layer1(x))
        c4 = self.layer3(c3)
        return [c3, c4, self.layer4(c4)]

    @property
    def stride_in_1x1(self) -> bool:
        """Whether the stride of a bottleneck is in its first convolution, as in the ResNets of the MSRA's Caffe."""
        return any(block.conv1.stride != (1, 1) for block in self._strided())

    @stride_in_1x1.setter
    def stride_in_1x1(self, value: bool) -> None:
        for block in self._strided():
            block.conv1.stride, block.conv2.stride = ((2, 2), (1, 1)) if value else ((1, 1), (2, 2))

    def _strided(self) -> list[Any]:
        firsts = [stage[0] for stage in (self.layer2, self.layer3, self.layer4)]
        return [block for block in firsts if isinstance(block, _Bottleneck)]

    def freeze_all_but(self, trainable_layers: int) -> None:
        """Train only the last ``trainable_layers`` of the five layers conv1 (with bn1), layer1, ..., layer4."""
        trained = ("layer4", "layer3", "layer2", "layer1", "conv1")[:trainable_layers]
        if trainable_layers == 5:
            trained += ("bn1",)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(trained))


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int, stride: int, groups: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def _stage(architecture: Architecture, stage: int, inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for index in range(architecture.depths[stage]):
        block_inputs = inputs if index == 0 else outputs
        stride = 2 if index == 0 and stage > 0 else 1
        if architecture.bottleneck:
            width = architecture.groups * architecture.width_per_group * 2**stage
            blocks.append(_Bottleneck(block_inputs, outputs, width, stride, architecture.groups, norm))
        else:
            blocks.append(_BasicBlock(block_inputs, outputs, stride, norm))
    return nn.Sequential(*blocks)


def _shortcut(inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
