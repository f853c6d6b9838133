"""Anchors and the image transform by hand; test_torchvision_models.py sets them beside torchvision's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from retinanet_fast.nn import AnchorGenerator, AnchorGrid, DetectionTransform, retinanet_anchor_generator
from retinanet_fast.structures import Detections

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pyramid_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """P3 to P7 of a ResNet, each level half the one below, rounded up."""
    sizes = [(height, width)]
    for _ in range(7):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes[3:]


# --- anchors ---


def test_retinanet_anchors_at_800() -> None:
    grid = retinanet_anchor_generator()((800, 800), pyramid_sizes(800, 800))
    assert isinstance(grid, AnchorGrid)
    assert grid.grid_sizes == ((100, 100), (50, 50), (25, 25), (13, 13), (7, 7))
    assert grid.strides == ((8, 8), (16, 16), (32, 32), (61, 61), (114, 114))
    assert grid.num_anchors == 120_087
    assert grid.boxes().shape == (120_087, 4)
    # 32 / sqrt(0.5) = 45.25 wide and 22.63 high, halved to 22.63 and 11.31, and rounded.
    assert grid.base_anchors[0, 0].tolist() == [-23, -11, 23, 11]
    # ratio-major: the sizes 32, 40, 50 of ratio 0.5 come before those of ratio 1
    assert grid.base_anchors[0, :, 2].tolist() == [23, 28, 35, 16, 20, 25, 11, 14, 18]
    assert grid.base_anchors[4, 3].tolist() == [-256, -256, 256, 256]


def test_anchor_boxes_follow_level_y_x_k() -> None:
    generator = AnchorGenerator([(8, 16), (32, 64)], (1.0, 2.0))
    grid = generator((48, 80), [(3, 5), (2, 3)])
    assert grid.strides == ((16, 16), (24, 26))
    boxes = grid.boxes()
    assert len(boxes) == grid.num_anchors == 4 * (15 + 6)
    flat = 4 * 15 + 4 * (1 * 3 + 2) + 1  # level 1, y 1, x 2, k 1
    expected = grid.base_anchors[1, 1] + torch.tensor([2 * 26, 1 * 24, 2 * 26, 1 * 24])
    assert torch.equal(boxes[flat], expected)


def test_anchor_arguments() -> None:
    flat = AnchorGenerator((32, 64), (0.5, 1.0))
    nested = AnchorGenerator(((32,), (64,)), ((0.5, 1.0),) * 2)
    assert torch.equal(flat.base_anchors, nested.base_anchors)
    assert flat.num_anchors_per_location() == [2, 2]
    with pytest.raises(ValueError, match="expected 2 levels, got 1"):
        flat((32, 32), [(4, 4)])
    with pytest.raises(ValueError, match=r"as many anchors per cell on each level, got \[1, 2\]"):
        AnchorGenerator(((32,), (32, 64)), (1.0,))
    with pytest.raises(ValueError, match="aspect ratios for 2 levels, got 1"):
        AnchorGenerator((32, 64), ((1.0,),))


def test_smallest_anchor_scales_every_level() -> None:
    generator = retinanet_anchor_generator(smallest=16)
    assert generator.sizes[0] == (16, 20, 25)
    assert generator.sizes[4] == (256, 322, 406)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_anchors_stay_float32(dtype: torch.dtype) -> None:
    generator = retinanet_anchor_generator()
    exact = generator((1024, 1024), pyramid_sizes(1024, 1024)).boxes()
    cast = copy.deepcopy(generator).to(dtype)((1024, 1024), pyramid_sizes(1024, 1024)).boxes()
    assert cast.dtype == torch.float32
    assert torch.equal(cast, exact)
    assert not generator.state_dict()


def test_anchors_compile_to_one_graph() -> None:
    generator = retinanet_anchor_generator()

    def boxes(image: Tensor) -> Tensor:
        return generator(image.shape[-2:], pyramid_sizes(64, 96)).boxes()

    image = torch.zeros(1, 3, 64, 96)
    assert torch.equal(torch.compile(boxes, fullgraph=True, backend="eager")(image), boxes(image))


# --- transform ---


def test_resize_keeps_the_shape_and_pads_to_a_multiple_of_32() -> None:
    transform = DetectionTransform(40, 60, MEAN, STD).eval()
    images = [torch.rand(3, 20, 30), torch.rand(3, 100, 20)]
    targets = [
        {"boxes": torch.tensor([[0.0, 0, 30, 20]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4)},
    ]
    batch, scaled = transform(images, targets)
    assert batch.image_sizes == [(40, 60), (60, 12)]  # the shorter side to 40; the longer no more than 60
    assert batch.tensors.shape == (2, 3, 64, 64)
    assert batch.tensors[0, :, 40:].abs().max() == 0
    assert batch.tensors[1, :, :, 12:].abs().max() == 0
    assert scaled[0]["boxes"].tolist() == [[0, 0, 60, 40]]
    assert scaled[0]["labels"] is targets[0]["labels"]
    assert targets[0]["boxes"].tolist() == [[0, 0, 30, 20]]
    assert scaled[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize(("height", "width"), [(20, 4800), (4800, 20)])
def test_a_side_is_at_least_one_pixel(height: int, width: int) -> None:
    transform = DetectionTransform(96, 96, MEAN, STD)
    box = torch.tensor([[0.0, 0, width, height]])
    batch, targets = transform([torch.rand(3, height, width)], [{"boxes": box}])
    assert sorted(batch.image_sizes[0]) == [1, 96]
    assert targets is not None
    assert sorted(targets[0]["boxes"][0, 2:].tolist()) == [1, 96]


def test_normalises_at_the_same_size() -> None:
    image = torch.rand(3, 32, 32)
    batch, _ = DetectionTransform(32, 64, MEAN, STD).eval()([image])
    expected = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(batch.tensors[0], expected)


def test_min_size_is_drawn_in_training_and_last_in_evaluation() -> None:
    transform = DetectionTransform((16, 24, 32), 1000, MEAN, STD)
    images = [torch.rand(3, 16, 16)] * 40
    torch.manual_seed(0)
    drawn = [size[0] for size in transform(images)[0].image_sizes]
    assert set(drawn) == {16, 24, 32}
    torch.manual_seed(0)
    assert [size[0] for size in transform(images)[0].image_sizes] == drawn
    assert {size[0] for size in transform.eval()(images)[0].image_sizes} == {32}


def test_fixed_size_is_width_height() -> None:
    transform = DetectionTransform(800, 1333, MEAN, STD, fixed_size=(96, 64), size_divisible=1)
    assert transform([torch.rand(3, 10, 10)])[0].tensors.shape == (1, 3, 64, 96)


def test_postprocess_returns_to_the_original_pixels() -> None:
    transform = DetectionTransform(40, 60, MEAN, STD)
    boxes = torch.tensor([[[0.0, 0, 60, 40]], [[6.0, 15, 12, 60]]])
    detections = Detections(
        boxes, torch.ones(2, 1), torch.ones(2, 1, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    )
    restored = transform.postprocess(detections, [(40, 60), (60, 12)], [(20, 30), (100, 20)])
    assert restored.boxes.tolist() == [[[0, 0, 30, 20]], [[10, 25, 20, 100]]]
    assert restored.counts is detections.counts


def test_bad_images_are_named() -> None:
    transform = DetectionTransform(40, 60, MEAN, STD)
    with pytest.raises(ValueError, match=r"expected images \[C, H, W\], got \[8, 8\] at index 1"):
        transform([torch.rand(3, 8, 8), torch.rand(8, 8)])
    with pytest.raises(TypeError, match=r"got torch\.uint8 at index 0"):
        transform([torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="at least one image"):
        transform([])
