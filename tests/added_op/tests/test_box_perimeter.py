import torch
from cases import random_boxes

from retinanet_fast import _C, ops, reference


def test_equals_reference_however_called() -> None:
    boxes = random_boxes(5000)
    expected = reference.box_perimeter(boxes)
    assert expected.shape == (5000,)
    for op in (ops.box_perimeter, _C.box_perimeter, torch.ops.retinanet_fast.box_perimeter):
        assert torch.equal(op(boxes), expected)
