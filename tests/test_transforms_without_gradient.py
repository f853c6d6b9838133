"""The ops without a gradient under torch.func's transforms: matching, suppression and detection."""

from collections.abc import Callable

import pytest
import torch
from cases import crowded, generator, make_grid, random_boxes
from detect_cases import random_head
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap

from retinanet_fast import ops

GRID = make_grid()


def batch_of_boxes() -> Tensor:
    """[V, B, G, 4]"""
    return torch.stack([random_boxes(5, seed=seed) for seed in range(6)]).reshape(3, 2, 5, 4)


# ---- matching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("anchors", [GRID, GRID.boxes()], ids=["grid", "boxes"])
def test_matching_of_batched_boxes(anchors: Tensor, dim: int) -> None:
    boxes = batch_of_boxes()
    expected = torch.stack([ops.match_anchors(anchors, list(call), high_threshold=0.6) for call in boxes])
    found = vmap(lambda call: ops.match_anchors(anchors, list(call), high_threshold=0.6), in_dims=dim)(
        boxes.movedim(0, dim)
    )
    assert torch.equal(found, expected)
    nested = vmap(vmap(lambda image: ops.match_anchors(anchors, [image], high_threshold=0.6)))(boxes)
    assert torch.equal(nested[:, :, 0], expected)


def test_matching_where_some_images_are_batched() -> None:
    boxes, other = batch_of_boxes()[:, 0], random_boxes(2, seed=9)
    found = vmap(lambda image: ops.match_anchors(GRID, [other, image, other[:0]]))(boxes)
    assert torch.equal(
        found, torch.stack([ops.match_anchors(GRID, [other, image, other[:0]]) for image in boxes])
    )


def test_matching_of_padded_boxes() -> None:
    boxes, counts = batch_of_boxes(), torch.tensor([[5, 3], [0, 1], [2, 4]])
    expected = torch.stack(
        [ops.match_anchors(GRID, b, gt_counts=c) for b, c in zip(boxes, counts, strict=True)]
    )
    found = vmap(lambda b, c: ops.match_anchors(GRID, b, gt_counts=c), in_dims=(2, 1))(
        boxes.movedim(0, 2), counts.movedim(0, 1)
    )
    assert torch.equal(found, expected)
    shared = vmap(lambda b: ops.match_anchors(GRID, b, gt_counts=counts[0]))(boxes)
    assert torch.equal(shared[1], ops.match_anchors(GRID, boxes[1], gt_counts=counts[0]))


def test_matching_of_batched_anchors() -> None:
    boxes = batch_of_boxes()[:, 0]
    anchors = torch.stack([GRID.boxes() + 3 * call for call in range(3)])
    expected = torch.stack([ops.match_anchors(a, [image]) for a, image in zip(anchors, boxes, strict=True)])
    assert torch.equal(vmap(lambda a, image: ops.match_anchors(a, [image]))(anchors, boxes), expected)
    bases = torch.stack([GRID.base_anchors + 3 * call for call in range(3)])
    found = vmap(lambda base, image: ops.match_anchors(GRID._replace(base_anchors=base), [image]))(
        bases, boxes
    )
    assert torch.equal(found, expected)


def test_matching_is_a_constant_to_derivatives() -> None:
    def foreground(boxes: Tensor) -> Tensor:
        matches = ops.match_anchors(GRID, [boxes])[0]
        return boxes[matches[matches >= 0]].square().sum()

    boxes = batch_of_boxes()[0, 0]
    matches = ops.match_anchors(GRID, [boxes])[0]
    uses = torch.bincount(matches[matches >= 0], minlength=5)[:, None]
    torch.testing.assert_close(grad(foreground)(boxes), 2 * uses * boxes)
    _, tangent = jvp(foreground, (boxes,), (boxes,))
    torch.testing.assert_close(tangent, 2 * foreground(boxes))


# ---- suppression ----------------------------------------------------------------------------------------------------

SUPPRESS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nms": lambda boxes, scores: ops.nms(boxes, scores, 0.5),
    "batched_nms": lambda boxes, scores: ops.batched_nms(boxes, scores, torch.arange(len(boxes)) % 2, 0.5),
}


@pytest.mark.parametrize("name", SUPPRESS)
def test_suppression_under_derivatives(name: str) -> None:
    boxes, scores = crowded(20, seed=1, dtype=torch.float64)
    boxes = boxes + 1  # no coordinate is 0
    kept = SUPPRESS[name](boxes, scores)

    def area(boxes: Tensor) -> Tensor:
        return boxes[SUPPRESS[name](boxes, scores)].square().sum()

    expected = torch.zeros_like(boxes)
    expected[kept] = 2 * boxes[kept]
    assert torch.equal(grad(area)(boxes), expected)
    assert torch.equal(jvp(area, (boxes,), (torch.ones_like(boxes),))[1], expected.sum())
    second = hessian(area)(boxes).flatten(2).flatten(0, 1)
    assert torch.equal(second.diagonal(), 2 * (expected != 0).flatten().double())


@pytest.mark.parametrize("name", SUPPRESS)
def test_suppression_under_vmap_names_the_remedy(name: str) -> None:
    boxes, scores = batch_of_boxes()[0], torch.rand(2, 5, generator=generator(0))
    with pytest.raises(NotImplementedError, match=f"^{name}: .*padded_batched_nms"):
        vmap(SUPPRESS[name])(boxes, scores)
    # What is batched elsewhere does not matter.
    found = vmap(lambda x: SUPPRESS[name](boxes[0], scores[0]).sum() + x)(torch.zeros(2))
    assert found.shape == (2,)


@pytest.mark.parametrize("dim", [0, -1])
def test_padded_suppression_under_vmap(dim: int) -> None:
    boxes = batch_of_boxes()
    scores = torch.rand(3, 2, 5, generator=generator(0))
    idxs = torch.randint(2, (3, 2, 5), generator=generator(1))
    counts = torch.tensor([[5, 3], [0, 4], [1, 2]])

    def suppress(boxes: Tensor, scores: Tensor, idxs: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        return ops.padded_batched_nms(boxes, scores, idxs, 0.2, counts=counts, max_output=4)

    arguments = (boxes, scores, idxs, counts)
    expected = [suppress(*call) for call in zip(*arguments, strict=True)]
    found = vmap(suppress, in_dims=dim)(*(x.movedim(0, dim) for x in arguments))
    for parts, wanted in zip(found, zip(*expected, strict=True), strict=True):
        assert torch.equal(parts, torch.stack(wanted))
    shared = vmap(suppress, in_dims=(0, 0, None, None))(boxes, scores, idxs[0], counts[0])
    assert torch.equal(shared[0][2], suppress(boxes[2], scores[2], idxs[0], counts[0])[0])


def test_padded_suppression_under_derivatives_and_both() -> None:
    boxes = batch_of_boxes()
    scores = torch.rand(3, 2, 5, generator=generator(0))

    def area(boxes: Tensor, scores: Tensor) -> Tensor:
        kept, count = ops.padded_batched_nms(boxes, scores, torch.zeros_like(scores).long(), 0.2)
        exists = torch.arange(5) < count[:, None]
        picked = boxes.gather(1, kept.clamp_min(0)[..., None].expand(-1, -1, 4))
        return (picked.square() * exists[..., None]).sum()

    each = torch.stack([grad(area)(b, s) for b, s in zip(boxes, scores, strict=True)])
    assert ((each == 0) | (each == 2 * boxes)).all()
    assert 0 < (each == 0).sum() < each.numel()
    assert torch.equal(vmap(grad(area))(boxes, scores), each)
    assert torch.equal(grad(lambda boxes: vmap(area)(boxes, scores).sum())(boxes), each)
    tangent = jvp(lambda boxes: area(boxes, scores[0]), (boxes[0],), (torch.ones(2, 5, 4),))[1]
    torch.testing.assert_close(tangent, each[0].sum())


def test_padded_suppression_checks_the_shapes_of_one_call() -> None:
    with pytest.raises(ValueError, match=r"expected scores \[2, 5\], got \[2, 4\]"):
        vmap(lambda b, s: ops.padded_batched_nms(b, s, s.long(), 0.5))(batch_of_boxes(), torch.ones(3, 2, 4))


# ---- detection ------------------------------------------------------------------------------------------------------


def test_detection_under_vmap() -> None:
    heads = [random_head(seed=seed) for seed in range(3)]
    grid = heads[0][2]
    sizes = torch.tensor([[[40, 50], [60, 70]], [[60, 50], [30, 70]], [[20, 50], [60, 30]]])
    logits = [torch.stack(level) for level in zip(*(head[0] for head in heads), strict=True)]
    deltas = [torch.stack(level) for level in zip(*(head[1] for head in heads), strict=True)]

    def detect(logits: list[Tensor], deltas: list[Tensor], sizes: Tensor) -> tuple[Tensor, ...]:
        found = ops.retinanet_detect(logits, deltas, grid, sizes, detections_per_img=20)
        return found.boxes, found.scores, found.labels, found.counts

    expected = [detect(*head[:2], size) for head, size in zip(heads, sizes, strict=True)]
    for found, parts in zip(vmap(detect)(logits, deltas, sizes), zip(*expected, strict=True), strict=True):
        assert torch.equal(found, torch.stack(parts))


def test_detections_are_constants_to_derivatives() -> None:
    logits, deltas, grid = random_head()

    def loss(first: Tensor) -> Tensor:
        found = ops.retinanet_detect([first, *logits[1:]], deltas, grid, [(50, 60)] * 2)
        return first.square().sum() + found.scores.sum()

    torch.testing.assert_close(grad(loss)(logits[0]), 2 * logits[0])
