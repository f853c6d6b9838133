"""The ops' containers as a user handles them."""

from __future__ import annotations

import pytest
import torch

from retinanet_fast.structures import Detections


def example() -> Detections:
    """Three images with 2, 0 and 1 detections, at most 2."""
    return Detections(
        boxes=torch.arange(24.0).reshape(3, 2, 4),
        scores=torch.tensor([[0.9, 0.8], [0, 0], [0.7, 0]]),
        labels=torch.tensor([[1, 2], [-1, -1], [3, -1]]),
        counts=torch.tensor([2, 0, 1]),
    )


def test_detections_are_a_sequence_of_images() -> None:
    detections = example()
    assert len(detections) == 3
    for found in (detections.unpack(), list(detections), [detections[image] for image in range(3)]):
        assert [image["labels"].tolist() for image in found] == [[1, 2], [], [3]]
        assert [list(image["boxes"].shape) for image in found] == [[2, 4], [0, 4], [1, 4]]
        assert found[2]["scores"].tolist() == pytest.approx([0.7])
    assert detections[-1]["labels"].tolist() == [3]
    assert detections[torch.tensor(2)]["labels"].tolist() == [3]
    for index in (3, -4):
        with pytest.raises(IndexError, match=rf"expected an image in \[0, 3\), got {index}"):
            detections[index]
    with pytest.raises(TypeError):
        detections["boxes"]


def test_a_slice_of_detections_is_that_of_its_images() -> None:
    part = example()[1:]
    assert isinstance(part, Detections)
    assert part.counts.tolist() == [0, 1]
    assert [image["labels"].tolist() for image in part] == [[], [3]]


def test_detections_move_to_a_device() -> None:
    moved = example().to("meta")
    for tensor in (moved.boxes, moved.scores, moved.labels, moved.counts):
        assert tensor.device.type == "meta"
