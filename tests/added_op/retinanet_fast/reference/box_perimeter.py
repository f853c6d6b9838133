from torch import Tensor


def box_perimeter(boxes: Tensor) -> Tensor:
    return 2 * ((boxes[:, 2] - boxes[:, 0]) + (boxes[:, 3] - boxes[:, 1]))
