"""RetinaNet's hot paths as fused C++ and CUDA kernels, and a thin RetinaNet that trains and detects with them.

``retinanet_fast.ops``        the ops: focal losses, boxes, matching, NMS, whole loss, whole detection
``retinanet_fast.reference``  the same names in a few lines of plain PyTorch each
``retinanet_fast.nn``         anchors and transforms
``retinanet_fast.models``     RetinaNet and its builders
"""

from typing import Any

__version__ = "0.1.0"


def build_info() -> dict[str, Any]:
    """What the compiled extension was built from and for; see :func:`retinanet_fast._ext.build_info`."""
    from retinanet_fast import _ext

    return _ext.build_info()
