"""The detections of `retinanet_detect`: to the bit those of the eager twin."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import DEVICES, DTYPES, generator, num_threads
from detect_cases import Head, anchor_grid, assert_same, random_head
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.structures import AnchorGrid, Detections

NAN, INF = math.nan, math.inf


def check(head: Head, image_sizes: Any = ((60, 50), (33, 64)), **settings: Any) -> Detections:
    detections = ops.retinanet_detect(*head, image_sizes, **settings)
    assert_same(detections, reference.retinanet_detect(*head, image_sizes, **settings))
    return detections


SETTINGS: list[dict[str, Any]] = [
    {},
    {"score_thresh": 0.5, "topk_candidates": 20, "detections_per_img": 7},
    {"score_thresh": 0.0, "topk_candidates": 100_000, "detections_per_img": 1000, "nms_thresh": 0.2},
    {"score_thresh": -1.0, "topk_candidates": 1, "box_weights": (10.0, 10.0, 5.0, 5.0)},
    {"score_thresh": 1.0},
    {"nms_thresh": -1.0},
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_reference(settings: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    check(random_head(dtype=dtype, device=device), **settings)
    check(random_head(dtype=dtype, device=device, step=0.5), **settings)


@pytest.mark.parametrize("soft_nms", ["linear", "gaussian"])
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_soft_nms_equals_reference(soft_nms: str, sigma: float) -> None:
    settings = {"nms_thresh": 0.2, "detections_per_img": 60}
    for step in (None, 0.5):
        head = random_head(step=step)
        soft = check(head, soft_nms=soft_nms, soft_nms_sigma=sigma, **settings)
        assert (soft.scores[:, 1:] <= soft.scores[:, :-1]).all()
        hard = ops.retinanet_detect(*head, ((60, 50), (33, 64)), **settings)
        assert not torch.equal(soft.boxes, hard.boxes)


def test_threshold_of_each_class() -> None:
    head = random_head()
    thresholds = torch.tensor([0.9, 0.05, 0.3, 2.0, NAN])
    detections = check(head, score_thresh=thresholds, topk_candidates=30)
    for image in detections:
        assert (image["scores"] > thresholds[image["labels"]]).all()
    check(head, score_thresh=thresholds, soft_nms="linear")
    assert_same(
        ops.retinanet_detect(*head, ((60, 50), (33, 64)), score_thresh=torch.full((5,), 0.2)),
        ops.retinanet_detect(*head, ((60, 50), (33, 64)), score_thresh=0.2),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout_of_the_outputs(dtype: torch.dtype) -> None:
    logits, deltas, grid = random_head(((9, 8), (8, 1), (1, 1)), dtype=dtype)
    expected = ops.retinanet_detect(logits, deltas, grid, ((60, 50), (33, 64)))

    def slice_of_wider(level: Tensor, dim: int) -> Tensor:
        wide = torch.cat([torch.full_like(level, 9.0), level, torch.full_like(level, 9.0)], dim)
        return wide.narrow(dim, level.shape[dim], level.shape[dim])

    layouts = {
        "channels_last": lambda level: level.contiguous(memory_format=torch.channels_last),
        "slice of channels": lambda level: slice_of_wider(level, 1),
        "slice of columns": lambda level: slice_of_wider(level, 3),
        "slice of columns, channels_last": lambda level: slice_of_wider(
            level.contiguous(memory_format=torch.channels_last), 3
        ),
        "every other row": lambda level: level.repeat_interleave(2, 2)[:, :, ::2],
        "every other value": lambda level: level.repeat_interleave(2, 3)[:, :, :, ::2],
        "transposed grid": lambda level: level.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for layout in layouts.values():
        arguments = [layout(level) for level in logits], [layout(level) for level in deltas]
        assert_same(ops.retinanet_detect(*arguments, grid, ((60, 50), (33, 64))), expected)
    mixed = [logits[0].contiguous(memory_format=torch.channels_last), *logits[1:]]
    assert_same(ops.retinanet_detect(mixed, deltas, grid, ((60, 50), (33, 64))), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("case", ["equal", "rising", "falling", "two scores", "saturated", "around zero"])
def test_many_candidates(case: str, layout: torch.memory_format) -> None:
    """More than one chunk of a scan, in the orders that are worst for one that keeps the best so far."""
    size, shapes, classes = (60, 70), 3, 40
    count = shapes * classes * size[0] * size[1]
    place = torch.arange(count).reshape(*size, shapes * classes).permute(2, 0, 1)[None].float()
    logits = {
        "equal": torch.zeros_like(place),
        "rising": place / count - 0.5,
        "falling": 0.5 - place / count,
        "two scores": (place % 7 == 3).float(),
        "saturated": 18 + place / count,  # distinct logits of which all have the score 1
        "around zero": (place % 1009 - 504) * 1e-8,  # few scores, of logits of both signs and 0
    }[case].contiguous(memory_format=layout)
    deltas = torch.zeros(1, shapes * 4, *size)
    check(([logits], [deltas], anchor_grid([size], shapes)), [(400, 400)], nms_thresh=0.7)


def sampled_by_the_cpu(count: int) -> Tensor:
    """Of `count` logits: 16 in each 1,024th."""
    place = torch.arange(count)
    return place % (count // 1024) < 16


def sampled_by_cuda(count: int) -> Tensor:
    """Of `count` float32 logits: four neighbours at a random place in each 8,192nd."""
    part = torch.arange(8192)
    hash = (part * 0x9E3779B1) & 0xFFFFFFFF
    hash = ((hash ^ (hash >> 15)) * 0x85EBCA6B) & 0xFFFFFFFF
    hash ^= hash >> 13
    vectors = count // 4
    sampled = torch.zeros(vectors, 4, dtype=torch.bool)
    sampled[(part * vectors + ((hash * vectors) >> 32)) >> 13] = True
    return sampled.flatten()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("best", [5, 300, 500, 5000, 20_000])
@pytest.mark.parametrize("sampled", [sampled_by_the_cpu, sampled_by_cuda])
def test_scores_that_mislead_a_sample(
    sampled: Callable[[int], Tensor], best: int, layout: torch.memory_format, device: str
) -> None:
    """The first bound is drawn from a sample: the best are all, or none, of it, so that too few or far too many
    candidates pass."""
    size, classes = (160, 128), 5
    count = size[0] * size[1] * classes
    place = torch.arange(count)
    for chosen in (sampled(count), ~sampled(count)):
        in_order = torch.full((count,), -1.0)
        in_order[place[chosen][:: max(1, int(chosen.sum()) // best)][:best]] = 3.0
        if layout == torch.channels_last:
            logits = in_order.view(1, *size, classes).permute(0, 3, 1, 2)
        else:
            logits = in_order.view(1, classes, *size)
        deltas = torch.randn(1, 4, *size, generator=generator(0)) * 0.1
        found = check(
            ([logits.to(device)], [deltas.to(device)], anchor_grid([size], 1, device)), [(900, 900)],
            topk_candidates=1000, nms_thresh=1.0, detections_per_img=1000,
        )  # fmt: skip
        assert found.counts == 1000
        assert (found.scores > 0.9).sum() == min(best, 1000)


@pytest.mark.parametrize("device", DEVICES)
def test_many_images(device: str) -> None:
    """More than the sizes of which pass to a kernel at once."""
    head = random_head(((2, 3),), batch=70, shapes=1, classes=2, device=device)
    check(head, [(20 + image, 40 - image // 2) for image in range(70)])


def test_equal_scores_go_by_level_then_index() -> None:
    logits = [torch.full((1, 2 * 3, 2, 2), 1.0), torch.full((1, 2 * 3, 1, 1), 1.0)]
    deltas = [torch.zeros(1, 8, 2, 2), torch.zeros(1, 8, 1, 1)]
    grid = anchor_grid([(2, 2), (1, 1)], 2)
    found = check((logits, deltas, grid), [(64, 64)], nms_thresh=1.0, topk_candidates=4)
    assert found.labels[0, :8].tolist() == [0, 1, 2, 0, 0, 1, 2, 0]
    first = grid.boxes()[[0, 0, 0, 1, 8, 8, 8, 9]].clamp(min=0)
    assert torch.equal(found.boxes[0, :8], first)
    # 20 and 30 are distinct logits of one score: the lower index goes first.
    logits = [torch.tensor([20.0, 30.0, 25.0])[None, :, None, None]]
    one = anchor_grid([(1, 1)], 1)
    found = check((logits, [torch.zeros(1, 4, 1, 1)], one), [(64, 64)], topk_candidates=2)
    assert found.labels[0, :3].tolist() == [0, 1, -1]


def test_not_finite_logits_and_deltas() -> None:
    logits, deltas, grid = random_head()
    for level, value in enumerate([NAN, INF, -INF]):
        logits[level].view(-1)[::5] = value
        deltas[level].view(-1)[::7] = value
    for threshold in (0.05, 0.0, -1.0):
        check((logits, deltas, grid), score_thresh=threshold, detections_per_img=900)


@pytest.mark.parametrize(("batch", "sizes"), [(0, [(2, 2)]), (1, [(0, 3), (2, 2)]), (2, [(0, 0)])])
def test_nothing_to_detect(batch: int, sizes: list[tuple[int, int]]) -> None:
    head = random_head(sizes, batch=batch)
    found = ops.retinanet_detect(*head, [(10, 10)] * batch, score_thresh=1.0)
    assert found.boxes.shape == (batch, 300, 4)
    assert not found.boxes.any()
    assert not found.scores.any()
    assert (found.labels == -1).all()
    assert found.counts.tolist() == [0] * batch


def test_one_class_and_ten_thousand() -> None:
    check(random_head(classes=1, shapes=1))
    check(random_head([(3, 3)], classes=10_000, shapes=1, batch=1), [(40, 40)])


def test_anchors_and_image_sizes_in_every_form() -> None:
    logits, deltas, grid = random_head()
    expected = ops.retinanet_detect(logits, deltas, grid, ((60, 50), (33, 64)))
    for anchors in (grid, grid.boxes(), grid.boxes().double()):
        for sizes in (
            [(60, 50), (33, 64)],
            torch.tensor([[60, 50], [33, 64]]),
            torch.tensor([[60, 50], [33, 64]]).int(),
        ):
            assert_same(ops.retinanet_detect(logits, deltas, anchors, sizes), expected)
    for image, (height, width) in zip(expected, ((60, 50), (33, 64)), strict=True):
        assert image["boxes"].min() >= 0
        assert image["boxes"][:, 2].max() <= width
        assert image["boxes"][:, 3].max() <= height


def test_same_bits_on_any_number_of_threads() -> None:
    head = random_head(((64, 64), (32, 32)), classes=60)
    found = []
    for threads in (1, 2, 2):
        with num_threads(threads):
            found.append(ops.retinanet_detect(*head, ((500, 400), (512, 384))))
    for other in found[1:]:
        assert_same(other, found[0])


def random_configuration(seed: int) -> tuple[Head, list[tuple[int, int]], dict[str, Any]]:
    rng = generator(seed)

    def draw(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=rng))]

    batch = draw(1, 1, 2)
    sizes = [(draw(1, 2, 3, 4), draw(1, 2, 3, 5)) for _ in range(draw(1, 2, 3))]
    head = random_head(
        sizes, batch=batch, shapes=draw(1, 2, 3), classes=draw(1, 2, 3, 7), seed=seed,
        dtype=draw(torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64),
        step=draw(None, 0.25, 1.0, 4.0),
    )  # fmt: skip
    settings = {
        "score_thresh": draw(0.05, 0.0, 0.5, 0.1192029),  # the last is the score of -2, rounded
        "topk_candidates": draw(1, 3, 10, 1000),
        "nms_thresh": draw(0.5, 0.0, 0.3, 1.0),
        "detections_per_img": draw(1, 4, 20),
        "soft_nms": draw(None, None, None, None, "linear", "gaussian"),
    }
    return head, [(draw(8, 20, 33), draw(8, 17, 40)) for _ in range(batch)], settings


@pytest.mark.parametrize("block", range(10))
def test_fuzz(block: int) -> None:
    with num_threads(1):  # thousands of tiny calls: threads would mostly wait for each other
        for seed in range(block * 1000, (block + 1) * 1000):
            head, image_sizes, settings = random_configuration(seed)
            try:
                check(head, image_sizes, **settings)
            except AssertionError as error:
                raise AssertionError(f"configuration {seed}: {settings}") from error


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_torchvision(layout: torch.memory_format) -> None:
    torchvision: ModuleType = pytest.importorskip("torchvision", reason="torchvision is not importable here")
    model = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=7, detections_per_img=100
    )
    sizes = [(16, 20), (8, 10), (4, 5)]
    logits, deltas, _ = random_head(sizes, shapes=9, classes=7)
    base = torch.tensor([[-16, -16, 16, 16]]) * torch.linspace(0.5, 3, 9)[:, None]
    base = torch.stack([base.round(), (2 * base).round(), (4 * base).round()])
    grid = AnchorGrid(base, ((8, 8), (16, 16), (32, 32)), tuple(sizes))
    image_sizes = [(120, 160), (128, 150)]

    def rows(level: Tensor, values: int) -> Tensor:
        batch, channels, height, width = level.shape
        split = level.reshape(batch, channels // values, values, height, width).permute(0, 3, 4, 1, 2)
        return split.reshape(batch, -1, values)

    outputs = {
        "cls_logits": [rows(level, 7) for level in logits],
        "bbox_regression": [rows(level, 4) for level in deltas],
    }
    anchors = list(grid.boxes().split([height * width * 9 for height, width in sizes]))
    theirs = model.postprocess_detections(outputs, [anchors] * 2, image_sizes)
    ours = ops.retinanet_detect(
        [level.contiguous(memory_format=layout) for level in logits],
        [level.contiguous(memory_format=layout) for level in deltas],
        grid, image_sizes, detections_per_img=100,
    )  # fmt: skip
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine["labels"], other["labels"])
        # torchvision rounds each step to float32, and coordinates go up to 160.
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=1e-6, atol=0)
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-5, atol=1e-4)
