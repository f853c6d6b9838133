"""Other libraries' functions, with their names, signatures, defaults, labels and return types, over the ops.

``from retinanet_fast.compat.mmcv import batched_nms`` stands where ``from mmcv.ops import batched_nms`` stood. Each
module says in its docstring what differs from the original. None of them needs that original to be installed.

``torchvision``   its ops, box coder and matcher
``fvcore``        its focal losses, ``_jit`` and ``_star`` names included, and its box losses
``detectron2``    its RetinaNet's targets, losses and inference; its NMS, matcher, box coder and anchors
``mmcv``          its focal losses and every form of its NMS
``detr``          the focal loss of the DETR family
``apex``          its focal loss
``ultralytics``   its ``non_max_suppression``
"""

from types import ModuleType as _ModuleType

__all__ = ["apex", "detectron2", "detr", "fvcore", "mmcv", "torchvision", "ultralytics"]


def __getattr__(name: str) -> _ModuleType:
    import importlib

    if name in __all__:
        return importlib.import_module(f"retinanet_fast.compat.{name}")
    raise AttributeError(f"module 'retinanet_fast.compat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
