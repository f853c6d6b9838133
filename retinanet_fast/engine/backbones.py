"""Networks of other libraries as a recipe's ``arch``: ``timm/NAME`` and ``torchvision/NAME``."""

from __future__ import annotations

import re
import warnings

import torch
from torch import nn

from retinanet_fast.engine.errors import InputError
from retinanet_fast.models.backbone import STRIDES

__all__ = ["network_of_another_library"]

# Of torchvision's networks, the modules that end at strides 8, 16 and 32.
TORCHVISION_LEVELS = {
    r"(wide_)?res(net|next)\d+.*": ("layer2", "layer3", "layer4"),
    r"regnet_.*": ("trunk_output.block2", "trunk_output.block3", "trunk_output.block4"),
    r"convnext_.*": ("features.3", "features.5", "features.7"),
    r"efficientnet_b\d": ("features.3", "features.5", "features.8"),
    r"efficientnet_v2_.*": ("features.3", "features.5", "features.7"),
    r"mobilenet_v2": ("features.6", "features.13", "features.18"),
    r"mobilenet_v3_large": ("features.6", "features.12", "features.16"),
    r"mobilenet_v3_small": ("features.3", "features.8", "features.12"),
    r"shufflenet_v2_.*": ("stage2", "stage3", "conv5"),
    r"densenet\d+": ("features.denseblock2", "features.denseblock3", "features.norm5"),
}


def network_of_another_library(arch: str) -> nn.Module | None:
    """The network that returns C3, C4 and C5, with fresh weights; None if ``arch`` names no other library.

    Raises:
        InputError: the library is not installed, or has no such network.
    """
    library, _, name = arch.partition("/")
    if library == "timm":
        return _timm_body(arch, name)
    if library == "torchvision":
        return _torchvision_body(arch, name)
    return None


def _timm_body(arch: str, name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise InputError(f"arch {arch}: timm is not installed: pip install timm") from None
    try:
        with torch.device("meta"):  # without the time to draw the weights
            info = timm.create_model(name, features_only=True).feature_info
        strides = info.reduction()
        levels = [info.out_indices[strides.index(stride)] for stride in STRIDES]
        return timm.create_model(name, features_only=True, out_indices=levels)
    except (RuntimeError, ValueError, AttributeError, TypeError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"arch {arch}: timm has no levels of strides 8, 16 and 32 of it: {reason}") from None


def _torchvision_body(arch: str, name: str) -> nn.Module:
    try:
        from torchvision.models import get_model, list_models
        from torchvision.models.feature_extraction import create_feature_extractor
    except ImportError:
        raise InputError(f"arch {arch}: torchvision is not installed: pip install torchvision") from None
    levels = next((nodes for kind, nodes in TORCHVISION_LEVELS.items() if re.fullmatch(kind, name)), None)
    if levels is None or name not in list_models():
        families = "ResNets, RegNets, ConvNeXts, EfficientNets, MobileNets, ShuffleNets and DenseNets"
        raise InputError(
            f"arch {arch}: expected one of torchvision's {families}, as torchvision.models names it"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.fx, that training and evaluation have other graphs
        return create_feature_extractor(get_model(name, weights=None), list(levels))
