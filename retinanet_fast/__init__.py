"""RetinaNet's hot paths as fused C++ and CUDA kernels, and a thin RetinaNet that trains and detects with them.

``retinanet_fast.ops``           the ops: focal losses, boxes, matching, NMS, whole loss, whole detection
``retinanet_fast.reference``     the same names in a few lines of plain PyTorch each
``retinanet_fast.nn``            anchors and transforms
``retinanet_fast.models``        RetinaNet and its builders
``retinanet_fast.accelerate``    lets torchvision's RetinaNet, FCOS, SSD and R-CNNs run on the ops
``retinanet_fast.compat``        other libraries' functions over the ops: torchvision, fvcore, detectron2, mmcv, ...
``retinanet_fast.export``        models as files for other programs: torch.export, AOTInductor, ONNX
``retinanet_fast.AnchorGrid``, ``Detections``  what ops take for anchors, and what ``retinanet_detect`` returns
``retinanet_fast.load_weights``  gives a model its weights, from torchvision's, detectron2's and mmdetection's files too
``retinanet_fast.synchronize_errors``   raises now what the GPU found wrong in labels or boxes
``retinanet_fast.register_dtensor``  lets the losses and box ops take the DTensors of ``torch.distributed.tensor``
``retinanet_fast.release_kept_memory``  gives back the memory of large CPU results
``retinanet_fast.ops_library``          the library that registers the ops, for programs without Python

All of these are imported when they are first used: ``import retinanet_fast`` alone does not import torch.
``python -m retinanet_fast.selftest`` checks every op on this machine.
"""

import typing as _typing

if _typing.TYPE_CHECKING:
    from pathlib import Path as _Path

    from retinanet_fast import acceleration, compat, export, models, nn, ops, reference
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
    "export",
    "load_weights",
    "models",
    "nn",
    "ops",
    "ops_library",
    "reference",
    "register_dtensor",
    "release_kept_memory",
    "synchronize_errors",
]

# Where each name that is imported on first use comes from.
_LAZY = {
    **{name: name for name in ("acceleration", "compat", "export", "models", "nn", "ops", "reference")},
    "AnchorGrid": "structures",
    "Detections": "structures",
    "accelerate": "acceleration",
    "load_weights": "models",
}


def build_info() -> dict[str, _typing.Any]:
    """What the compiled extension was built from and for; see :func:`retinanet_fast._ext.build_info`."""
    from retinanet_fast import _ext

    return _ext.build_info()


def ops_library() -> "_Path":
    """The shared library of the ops, for programs without Python.

    Loading it, by ``dlopen`` in C++ or by ``torch.ops.load_library``, registers ``torch.ops.retinanet_fast.*``. It
    needs the torch that it was built for, and no Python.

    Raises:
        ImportError: it has not been built, or for another torch.
    """
    from retinanet_fast import _ext

    return _ext.OPS_LIBRARY


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


def register_dtensor() -> None:
    """Let the ops take the DTensors of ``torch.distributed.tensor``, which this function imports.

    The focal losses (by rows, and with float targets by any dimension), :func:`retinanet_fast.ops.box_iou`,
    ``encode_boxes`` and ``decode_boxes`` (by rows) then work on each process's shard, and their gradients too: with
    ``reduction="sum"`` the result is a partial sum. ``reduction="mean"`` gathers its inputs first, so that for sharded
    ones a sum, divided, is better. The other ops raise a NotImplementedError that says what to call them with.
    """
    from retinanet_fast import _dtensor

    _dtensor.register()


def __getattr__(name: str) -> _typing.Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module 'retinanet_fast' has no attribute {name!r}")
    module = importlib.import_module(f"retinanet_fast.{_LAZY[name]}")
    return module if name == _LAZY[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
