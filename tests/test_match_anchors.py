import math

import pytest
import torch
from cases import DEVICES, DTYPES, generator, make_grid, non_contiguous, num_threads, random_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.structures import AnchorGrid


def images_of_boxes(grid: AnchorGrid, device: str = "cpu") -> dict[str, Tensor]:
    """Easy and adversarial images: what each is about, and its boxes."""
    anchors = grid.boxes().cpu()
    cases = {
        "none": torch.zeros(0, 4),
        "one": random_boxes(1, seed=1),
        "twenty": random_boxes(20, seed=2),
        "rounded, with ties": random_boxes(60, seed=3).round() + torch.tensor([0.0, 0, 1, 1]),
        "identical": random_boxes(2, seed=4)[[0, 1, 0, 0, 1]],
        "equal to anchors": anchors[[0, 5, -1, 5]],
        "halves of anchors": (
            anchors[[3, 40]] * torch.tensor([1.0, 1, 1, 0.5]) + torch.tensor([0.0, 0, 0, 3])
        ),
        "outside": random_boxes(2, seed=5) + 1e4,
        "one outside": torch.cat([random_boxes(3, seed=6), random_boxes(1, seed=5) + 1e4]),
        "tiny": torch.tensor([[20.0, 20.0, 20.001, 20.001], [33.0, 1.0, 33.5, 90.0]]),
        "huge": torch.tensor([[-1e5, -1e5, 1e5, 1e5]]),
        "a thousand": random_boxes(1000, seed=7, size=140.0),
    }
    return {name: boxes.to(device) for name, boxes in cases.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_grid", [True, False])
@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize("match_zero_iou", [True, False])
def test_every_match_equals_reference(
    as_grid: bool, low_quality: bool, match_zero_iou: bool, device: str
) -> None:
    grid = make_grid(device=device)
    anchors = grid if as_grid else grid.boxes()
    cases = images_of_boxes(grid, device)
    options = {"allow_low_quality_matches": low_quality, "match_zero_iou": match_zero_iou}
    actual = ops.match_anchors(anchors, list(cases.values()), **options)
    expected = reference.match_anchors(anchors, list(cases.values()), **options)
    assert actual.dtype == torch.int64
    for name, ours, theirs in zip(cases, actual, expected, strict=True):
        assert torch.equal(ours, theirs), name
    assert {-2, -1, 0} <= set(actual.unique().tolist())


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype) -> None:
    anchors = random_boxes(500, seed=1, dtype=dtype)
    boxes = [random_boxes(n, seed=n, dtype=dtype) for n in (7, 0, 30)]
    assert torch.equal(ops.match_anchors(anchors, boxes), reference.match_anchors(anchors, boxes))
    grid = make_grid()
    assert torch.equal(ops.match_anchors(grid, boxes), reference.match_anchors(grid, boxes))
    mixed = [boxes[0].double(), boxes[1].float(), boxes[2].bfloat16()]
    assert torch.equal(
        ops.match_anchors(grid, mixed), reference.match_anchors(grid, [b.double() for b in mixed])
    )


@given(
    levels=st.integers(1, 6),
    per_cell=st.integers(1, 10),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    thresholds=st.tuples(st.sampled_from([0.0, 0.3, 0.4, 0.5]), st.sampled_from([0.5, 0.6, 1.0])),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_grid_equals_reference(
    levels: int,
    per_cell: int,
    height: int,
    width: int,
    counts: list[int],
    thresholds: tuple[float, float],
    seed: int,
) -> None:
    grid = make_grid(levels, per_cell, (height, width), stride=4)
    # Whole pixels make equal IoUs likely.
    boxes = [random_boxes(n, seed=seed + i, size=200.0).round() for i, n in enumerate(counts)]
    low, high = thresholds
    options = {"low_threshold": low, "high_threshold": high}
    assert torch.equal(
        ops.match_anchors(grid, boxes, **options), reference.match_anchors(grid, boxes, **options)
    )


def test_equals_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not importable here")
    from torchvision.models.detection._utils import Matcher

    grid = make_grid()
    cases = images_of_boxes(grid)
    for low_quality in (True, False):
        matcher = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality)
        actual = ops.match_anchors(grid, list(cases.values()), allow_low_quality_matches=low_quality)
        for (name, boxes), ours in zip(cases.items(), actual, strict=True):
            if len(boxes):  # torchvision's matcher refuses images without boxes
                theirs = matcher(torchvision.ops.box_iou(boxes, grid.boxes()))
                assert torch.equal(ours, theirs), name


def test_first_box_wins_ties_and_restored_anchors_keep_their_own_best_box() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5], [0, 0, 10, 3], [50, 50, 60, 60]])
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert ops.match_anchors(anchors, [torch.cat([box, box]), box[:0]]).tolist() == [
        [0, -2, -1, -1],
        [-1] * 4,
    ]
    # Anchor 2 has the second box's best IoU, 1/3, and box 1 is its own best.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 1]])
    assert ops.match_anchors(anchors, [boxes]).tolist() == [[0, -2, 1, -1]]
    # Box 1's best anchor is anchor 0, whose own best is box 0.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 6, 10, 12]])
    assert ops.match_anchors(anchors, [boxes]).tolist() == [[0, -2, -1, -1]]


def test_box_that_no_anchor_overlaps() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    assert ops.match_anchors(anchors, [boxes]).tolist() == [[0, 0]]
    assert ops.match_anchors(anchors, [boxes], match_zero_iou=False).tolist() == [[0, -1]]


def test_anchors_with_nan_corners_overlap_nothing() -> None:
    anchors = random_boxes(300, seed=1)
    boxes = [random_boxes(9, seed=2)]
    expected = ops.match_anchors(anchors, boxes)
    nowhere = torch.full((1, 4), math.nan)
    actual = ops.match_anchors(torch.cat([nowhere, anchors, nowhere]), boxes)
    assert torch.equal(actual[:, 1:-1], expected)
    assert actual[0, 0] == actual[0, -1] == -1


def test_anchors_without_a_finite_area_overlap_nothing() -> None:
    nothing = torch.tensor(
        [
            [5.0, 5, 5, 9],
            [9, 9, 5, 5],
            [9, 5, 5, 9],
            [-math.inf, -math.inf, math.inf, math.inf],
            [0, 0, math.inf, 4],
            [1e30, 1e30, 1e30, 1e30],
            [-1e30, -1e30, 1e30, 1e30],
        ]
    )
    anchors, boxes = random_boxes(40, seed=1), [random_boxes(9, seed=2), random_boxes(1, seed=3) + 1e3]
    between = torch.cat([anchors[:20], nothing, anchors[20:], nothing])
    is_anchor = torch.tensor([True] * 20 + [False] * 7 + [True] * 20 + [False] * 7)
    for match_zero_iou in (True, False):
        expected = ops.match_anchors(anchors, boxes, match_zero_iou=match_zero_iou)
        actual = ops.match_anchors(between, boxes, match_zero_iou=match_zero_iou)
        assert torch.equal(actual[:, is_anchor], expected)
        # By that rule the second image's box, which nothing overlaps, belongs to every anchor.
        assert actual[:, ~is_anchor].tolist() == [[-1] * 14, [0 if match_zero_iou else -1] * 14]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("as_grid", [True, False])
def test_thresholds_to_the_bit(as_grid: bool, device: str) -> None:
    grid = make_grid(device=device)
    anchors = grid if as_grid else grid.boxes()
    boxes = random_boxes(40, seed=3, device=device)
    best = reference.box_iou(boxes, grid.boxes()).amax(dim=0)
    for threshold in best[best > 0].quantile(
        torch.tensor([0.1, 0.5, 0.9, 1.0], device=device), interpolation="nearest"
    ):
        for bound in (threshold, threshold.nextafter(torch.ones_like(threshold))):
            options = {"low_threshold": bound.item(), "high_threshold": bound.item()}
            actual = ops.match_anchors(anchors, [boxes], allow_low_quality_matches=False, **options)
            assert torch.equal(actual[0] >= 0, best >= bound)
            assert torch.equal(
                ops.match_anchors(anchors, [boxes], **options),
                reference.match_anchors(anchors, [boxes], **options),
            )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1e-18, 1e-20, 3e-22, 1e-23, 1e15, 1e17])
def test_areas_that_underflow_or_overflow(scale: float, device: str) -> None:
    anchors = make_grid(device=device).boxes()
    boxes = random_boxes(70, seed=9, device=device)
    for scaled_anchors, scaled_boxes in ((anchors * scale, boxes * scale), (anchors, boxes * scale)):
        # 1e-42: below the normal numbers, as an IoU with a box far larger may be.
        for low in (0.0, 1e-42, 0.4):
            assert torch.equal(
                ops.match_anchors(scaled_anchors, [scaled_boxes], low_threshold=low),
                reference.match_anchors(scaled_anchors, [scaled_boxes], low_threshold=low),
            )


@pytest.mark.parametrize("device", DEVICES)
def test_best_iou_that_is_rounded_up_to_the_smallest_number(device: str) -> None:
    anchors = torch.tensor([[0, 0, 2**-12, 2**-12], [-2, -2, -1, -1]], device=device)
    box = torch.tensor([[0, 0, 1.25 * 2.0**62, 2.0**63]], device=device)
    assert reference.box_iou(anchors, box).tolist() == [[2**-149], [0.0]]  # of 0.8 * 2**-149
    assert ops.match_anchors(anchors, [box]).tolist() == [[0, -1]]


@pytest.mark.parametrize("device", DEVICES)
def test_many_boxes_over_every_anchor(device: str) -> None:
    """Every box may be the best of every anchor; a third of them equal the box before."""
    corners = torch.randint(0, 4, (700, 4), generator=generator(1)) + torch.tensor([0, 0, 36, 36])
    boxes = corners.float().repeat_interleave(torch.arange(700) % 3 + 1, dim=0)[:1000].to(device)
    anchors = random_boxes(100, seed=5, size=1.0, device=device) + torch.tensor(
        [1.0, 1, 37, 37], device=device
    )
    for options in ({}, {"low_threshold": 0.9, "high_threshold": 0.95}):
        assert torch.equal(
            ops.match_anchors(anchors, [boxes, boxes.flip(0)], **options),
            reference.match_anchors(anchors, [boxes, boxes.flip(0)], **options),
        )


def test_no_images_and_no_anchors() -> None:
    assert ops.match_anchors(random_boxes(3), []).shape == (0, 3)
    assert ops.match_anchors(torch.zeros(0, 4), [random_boxes(2)]).shape == (1, 0)


@pytest.mark.parametrize(
    "corners",
    [
        [5.0, 5.0, 5.0, 9.0],
        [5.0, 9.0, 8.0, 5.0],
        [math.nan, 0.0, 4.0, 4.0],
        [0.0, 0.0, 4.0, math.nan],
        [0.0, 0.0, math.inf, 4.0],
    ],
)
def test_bad_boxes_name_image_and_row(corners: list[float]) -> None:
    good = random_boxes(3)
    bad = torch.cat([good, torch.tensor([corners])])
    with pytest.raises(ValueError, match=r"match_anchors: expected finite gt_boxes .* image 1, row 3"):
        ops.match_anchors(make_grid(), [good, bad])


def test_non_contiguous() -> None:
    anchors, boxes = random_boxes(50, seed=1), random_boxes(6, seed=2)
    strided = ops.match_anchors(non_contiguous(anchors), [non_contiguous(boxes)])
    assert torch.equal(strided, ops.match_anchors(anchors, [boxes]))


def test_same_on_any_number_of_threads() -> None:
    grid = make_grid(5, 9, (64, 64))
    boxes = [random_boxes(n, seed=n, size=500.0) for n in (20, 100)]
    results = []
    for threads in (1, 2, 2):
        with num_threads(threads):
            results.append(ops.match_anchors(grid, boxes))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("anchors", "boxes", "error", "message"),
    [
        (torch.zeros(3, 5), torch.ones(1, 4), ValueError, r"expected anchors \[N, 4\], got \[3, 5\]"),
        (
            torch.zeros(3),
            torch.ones(1, 4),
            ValueError,
            r"expected anchors \[A, 4\] or an AnchorGrid .*, got \[3\]",
        ),
        (torch.zeros(3, 4), torch.ones(4), ValueError, r"expected gt_boxes\[0\] \[G, 4\], got \[4\]"),
        (torch.zeros(3, 4).long(), torch.ones(1, 4), TypeError, "expected anchors of float64"),
        (torch.zeros(3, 4), torch.ones(1, 4).long(), TypeError, "expected gt_boxes of float64"),
        (
            make_grid()._replace(strides=((8, 8),)),
            torch.ones(1, 4),
            ValueError,
            ".* for each of its 3 levels, got 1",
        ),
        (
            make_grid()._replace(strides=((8, 8), (16, 0), (32, 32))),
            torch.ones(1, 4),
            ValueError,
            r"expected AnchorGrid strides in \[1, 16777216\], got 0 at level 1",
        ),
        (
            make_grid()._replace(grid_sizes=((4, 4), (2, 2), (1 << 40, 1))),
            torch.ones(1, 4),
            ValueError,
            r"expected AnchorGrid grid_sizes in \[0, 16777216\], got 1099511627776 at level 2",
        ),
        (make_grid(levels=9), torch.ones(1, 4), ValueError, ".* at most 8 levels, got 9"),
    ],
)
def test_bad_input(anchors: Tensor, boxes: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="match_anchors: " + message):
        ops.match_anchors(anchors, [boxes])


def test_bad_thresholds() -> None:
    with pytest.raises(ValueError, match=r"expected low_threshold <= high_threshold, got 0\.6 > 0\.5"):
        ops.match_anchors(random_boxes(3), [], low_threshold=0.6)


def test_opcheck_and_compile() -> None:
    grid = make_grid()
    boxes = [random_boxes(n, seed=n) for n in (4, 0)]
    rule = (None, 0.5, 0.4, True, True)
    strides, sizes = ([n for pair in pairs for n in pair] for pairs in (grid.strides, grid.grid_sizes))
    match = torch.ops.retinanet_fast.match_anchors.default
    torch.library.opcheck(match, (grid.base_anchors, strides, sizes, boxes, *rule))
    torch.library.opcheck(match, (grid.boxes(), [], [], boxes, *rule))
    compiled = torch.compile(ops.match_anchors, fullgraph=True, backend="aot_eager")
    for size in ((13, 17), (14, 18), (9, 30)):  # other sizes make the grid's symbolic
        grid = make_grid(size=size)
        assert torch.equal(compiled(grid, boxes), ops.match_anchors(grid, boxes))


def test_memory_does_not_grow_with_the_number_of_boxes() -> None:
    grid = make_grid(4, 9, (64, 64))

    def allocated(count: int) -> int:
        boxes = [torch.rand(count, 4, generator=generator(1)) + torch.tensor([0.0, 0, 100, 100])]
        with torch.profiler.profile(profile_memory=True) as profile:
            ops.match_anchors(grid, boxes)
        return sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())

    # Beyond the boxes themselves (a copy, and a number each) nothing more.
    assert allocated(1000) - allocated(1) <= 1000 * 32
