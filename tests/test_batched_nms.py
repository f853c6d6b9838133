import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    crowded,
    generator,
    non_contiguous,
    num_threads,
    random_boxes,
    random_scores,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinanet_fast import ops, reference

INT_DTYPES = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def random_classes(n: int, classes: int, *, seed: int = 0, device: str = "cpu") -> Tensor:
    return torch.randint(0, classes, (n,), generator=generator(seed)).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 3, 500])
@pytest.mark.parametrize("n", [0, 1, 40, 400])
def test_equals_reference(n: int, classes: int, dtype: torch.dtype, device: str) -> None:
    boxes, scores = crowded(n, seed=n, device=device, dtype=dtype)
    idxs = random_classes(n, classes, device=device)
    kept = ops.batched_nms(boxes, scores, idxs, 0.4)
    assert kept.dtype == torch.int64
    assert torch.equal(kept, reference.batched_nms(boxes, scores, idxs, 0.4))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [2, 10_000])
def test_many_boxes(classes: int, device: str) -> None:
    boxes, scores = random_boxes(9000, seed=1, device=device), random_scores(9000, device=device)
    idxs = random_classes(9000, classes, device=device)
    expected = torch.cat(
        [
            (idxs == c).nonzero()[:, 0][ops.nms(boxes[idxs == c], scores[idxs == c], 0.5)]
            for c in idxs.unique()
        ]
    )
    expected = expected[scores[expected].sort(descending=True, stable=True).indices]
    kept = ops.batched_nms(boxes, scores, idxs, 0.5)
    assert torch.equal(scores[kept], scores[expected])
    assert torch.equal(kept.sort().values, expected.sort().values)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [1, 80, 5000])
def test_every_class_by_itself(classes: int, device: str) -> None:
    # More than a round of the kernels on CUDA, many boxes of other classes in the same places.
    boxes, scores = crowded(5000, seed=2)
    scores = random_scores(5000)
    idxs = torch.arange(5000) % classes * 2**31 - 5
    kept = ops.batched_nms(boxes.to(device), scores.to(device), idxs.to(device), 0.3).cpu()
    alone = [ops.nms(boxes[idxs == c], scores[idxs == c], 0.3) for c in idxs.unique()]
    expected = torch.cat([(idxs == c).nonzero()[:, 0][k] for c, k in zip(idxs.unique(), alone, strict=True)])
    assert torch.equal(kept, expected[scores[expected].sort(descending=True, stable=True).indices])


@pytest.mark.parametrize("dtype", INT_DTYPES)
def test_any_integers_are_classes(dtype: torch.dtype) -> None:
    boxes, scores = crowded(300, seed=5)
    info = torch.iinfo(dtype)
    choices = torch.tensor([info.min, info.max, 0, 1, 100], dtype=dtype)
    idxs = choices[random_classes(300, len(choices))]
    assert torch.equal(
        ops.batched_nms(boxes, scores, idxs, 0.5), reference.batched_nms(boxes, scores, idxs, 0.5)
    )


def test_no_leak_between_classes() -> None:
    # Offsets of max + 1 per class would move these onto each other, and 2^24 would round the small box away.
    boxes = torch.tensor(
        [[-10.0, -10, 0, 0], [-30.0, -30, -20, -20], [2.0**24, 0, 2.0**24 + 8, 8], [0, 0, 1, 1]]
    )
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert ops.batched_nms(boxes, scores, torch.tensor([0, 1, 0, 1]), 0.1).tolist() == [0, 1, 2, 3]
    same = boxes[:1].repeat(4, 1)
    assert ops.batched_nms(same, scores, torch.tensor([3, 1, 3, 1]), 0.1).tolist() == [0, 1]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 120),
    seed=st.integers(0, 2**20),
    classes=st.integers(1, 12),
    threshold=st.sampled_from([-0.5, 0.0, 0.1, 1 / 3, 0.5, 1.0]),
)
def test_any_crowd(n: int, seed: int, classes: int, threshold: float) -> None:
    boxes, scores = crowded(n, seed=seed)
    idxs = random_classes(n, classes, seed=seed)
    kept = ops.batched_nms(boxes, scores, idxs, threshold)
    assert torch.equal(kept, reference.batched_nms(boxes, scores, idxs, threshold))


@pytest.mark.parametrize("n", [200, 5000])
def test_equals_torchvision(n: int) -> None:
    boxes_ops = pytest.importorskip("torchvision.ops.boxes", reason="torchvision is not importable here")
    boxes, scores, idxs = random_boxes(n, seed=n, size=1000.0), random_scores(n), random_classes(n, 20)
    expected = boxes_ops._batched_nms_vanilla(boxes, scores, idxs, 0.5)
    assert torch.equal(ops.batched_nms(boxes, scores, idxs, 0.5), expected)


def test_non_contiguous() -> None:
    boxes, scores = crowded(200, seed=3)
    idxs = random_classes(200, 4)
    strided = ops.batched_nms(non_contiguous(boxes), non_contiguous(scores), non_contiguous(idxs), 0.5)
    assert torch.equal(strided, ops.batched_nms(boxes, scores, idxs, 0.5))


def test_same_indices_on_any_number_of_threads() -> None:
    boxes, scores, idxs = random_boxes(9000, seed=1), random_scores(9000), random_classes(9000, 30)
    kept = []
    for threads in (1, 2, 2):
        with num_threads(threads):
            kept.append(ops.batched_nms(boxes, scores, idxs, 0.5))
    assert all(torch.equal(kept[0], other) for other in kept[1:])


@pytest.mark.parametrize(
    ("idxs", "error", "message"),
    [
        (torch.zeros(2).long(), ValueError, r"batched_nms: expected idxs \[3\], got \[2\]"),
        (
            torch.zeros(3, dtype=torch.complex64),
            TypeError,
            "batched_nms: expected idxs of an integer or floating",
        ),
    ],
)
def test_bad_input(idxs: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.batched_nms(torch.zeros(3, 4), torch.zeros(3), idxs, 0.5)
    with pytest.raises(ValueError, match=r"batched_nms: expected boxes \[N, 4\], got \[3\]"):
        ops.batched_nms(torch.zeros(3), torch.zeros(3), torch.zeros(3).long(), 0.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_floating_point_idxs_are_compared_as_numbers(dtype: torch.dtype, device: str) -> None:
    boxes, scores = crowded(300, seed=3, device=device)
    # Whole and broken numbers, and both zeros, which are one class.
    values = torch.tensor([0.0, -0.0, 0.5, 1.0, -1.0, 3.0, 80.0, 1e4], dtype=dtype, device=device)
    numbers = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6], device=device)
    which = random_classes(300, len(values)).to(device)
    kept = ops.batched_nms(boxes, scores, values[which], 0.5)
    assert torch.equal(kept, reference.batched_nms(boxes, scores, numbers[which], 0.5))
    assert len(kept) > len(reference.nms(boxes, scores, 0.5))


# Older torches (2.6, for one) ask for the setting where the size of a result depends on values.
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_opcheck_and_compile() -> None:
    arguments = (random_boxes(30, seed=1), random_scores(30), random_classes(30, 3), 0.5)
    torch.library.opcheck(torch.ops.retinanet_fast.batched_nms.default, arguments)
    compiled = torch.compile(ops.batched_nms, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), ops.batched_nms(*arguments))
