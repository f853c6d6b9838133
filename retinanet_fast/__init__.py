"""RetinaNet's hot paths as fused C++ and CUDA kernels, and a thin RetinaNet that trains and detects with them.

``retinanet_fast.ops``           the ops: focal losses, boxes, matching, NMS, whole loss, whole detection
``retinanet_fast.reference``     the same names in a few lines of plain PyTorch each
``retinanet_fast.nn``            anchors and transforms
``retinanet_fast.models``        RetinaNet and its builders
``retinanet_fast.accelerate``    lets torchvision's RetinaNet, FCOS, SSD and R-CNNs run on the ops
``retinanet_fast.compat``        other libraries' functions over the ops: torchvision, fvcore, detectron2, mmcv, ...
``retinanet_fast.AnchorGrid``, ``Detections``  what ops take for anchors, and what ``retinanet_detect`` returns
``retinanet_fast.load_weights``  gives a model its weights, from torchvision's, detectron2's and mmdetection's files too
``retinanet_fast.synchronize_errors``   raises now what the GPU found wrong in labels or boxes
``retinanet_fast.release_kept_memory``  gives back the memory of large CPU results

All of these are imported when they are first used: ``import retinanet_fast`` alone does not import torch.
``python -m retinanet_fast.selftest`` checks every op on this machine.
"""

import typing as _typing

if _typing.TYPE_CHECKING:
    from retinanet_fast import acceleration, compat, models, nn, ops, reference
    from retinanet_fast.acceleration import accelerate
    from retinanet_fast.models import load_weights
    from retinanet_fast.structures import AnchorGrid, Detections

__version__ = "0.1.0"
__all__ = [
    "AnchorGrid",
    "Detections",
    "accelerate",
    "acceleration",
    "build_info",
    "compat",
    "load_weights",
    "models",
    "nn",
    "ops",
    "reference",
    "release_kept_memory",
    "synchronize_errors",
]

# Where each name that is imported on first use comes from.
_LAZY = {
    **{name: name for name in ("acceleration", "compat", "models", "nn", "ops", "reference")},
    "AnchorGrid": "structures",
    "Detections": "structures",
    "accelerate": "acceleration",
    "load_weights": "models",
}


def build_info() -> dict[str, _typing.Any]:
    """What the compiled extension was built from and for; see :func:`retinanet_fast._ext.build_info`."""
    from retinanet_fast import _ext

    return _ext.build_info()


def synchronize_errors() -> None:
    """Wait for every GPU that an op ran on, and raise what its kernels found wrong in labels or boxes.

    On CUDA the ops do not look at the values of labels and boxes on the host. The next call of such an op on that
    device raises the error; this function raises that of the last call. On the CPU errors are raised at once, and
    nothing is left to raise here.

    Raises:
        IndexError: a label outside the classes.
        ValueError: a ground-truth box without area or with a corner that is not finite.
    """
    from retinanet_fast import _ext

    _ext._C.synchronize_errors()


def release_kept_memory() -> None:
    """Give the system back the memory that large CPU results have left for the next ones (at most four blocks)."""
    from retinanet_fast import _ext

    _ext._C.release_kept_memory()


def __getattr__(name: str) -> _typing.Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module 'retinanet_fast' has no attribute {name!r}")
    module = importlib.import_module(f"retinanet_fast.{_LAZY[name]}")
    return module if name == _LAZY[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
