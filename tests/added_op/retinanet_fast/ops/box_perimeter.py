import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.arguments import check_boxes


def box_perimeter(boxes: Tensor) -> Tensor:
    """Perimeters of boxes.

    Args:
        boxes: ``[N, 4]`` floating point, ``(x1, y1, x2, y2)``.

    Returns:
        ``[N]`` in the boxes' dtype.

    Raises:
        ValueError: a shape that is not ``[N, 4]``.
    """
    return torch.ops.retinanet_fast.box_perimeter(boxes)


@torch.library.register_fake("retinanet_fast::box_perimeter")
def _(boxes: Tensor) -> Tensor:
    check_boxes("box_perimeter", "boxes", boxes)
    return boxes.new_empty(boxes.shape[0])
