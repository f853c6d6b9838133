import pytest
import torch
from cases import DEVICES, crowded, generator
from torch import Tensor

from retinanet_fast import ops, reference


def padded(batch: int, n: int, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    boxes, scores = crowded(batch * n, seed=batch + n, device=device)
    idxs = torch.randint(-3, 3, (batch, n), generator=generator(n)).to(device)
    return boxes.view(batch, n, 4), scores.view(batch, n), idxs


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("batch", "n"), [(0, 3), (2, 0), (1, 1), (3, 40), (5, 120)])
@pytest.mark.parametrize("max_output", [None, 0, 5, 300])
def test_equals_reference(batch: int, n: int, max_output: int | None, device: str) -> None:
    arguments = padded(batch, n, device)
    for counts in (None, torch.arange(batch, device=device) * 7 % (n + 1)):
        actual = ops.padded_batched_nms(*arguments, 0.4, counts=counts, max_output=max_output)
        expected = reference.padded_batched_nms(*arguments, 0.4, counts=counts, max_output=max_output)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_padding_and_other_images_suppress_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(2, 3, 1)
    scores = torch.tensor([[0.1, 0.9, 0.8], [0.2, 0.3, 0.1]])
    kept, num_kept = ops.padded_batched_nms(
        boxes, scores, torch.zeros(2, 3, dtype=torch.int32), 0.5, counts=torch.tensor([1, 3])
    )
    assert kept.tolist() == [[0, -1, -1], [1, -1, -1]]
    assert num_kept.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"boxes": torch.zeros(3, 4)}, ValueError, r"expected boxes \[B, N, 4\], got \[3, 4\]"),
        ({"scores": torch.zeros(2, 4)}, ValueError, r"expected scores \[2, 3\], got \[2, 4\]"),
        ({"idxs": torch.zeros(3).long()}, ValueError, r"expected idxs \[2, 3\], got \[3\]"),
        ({"idxs": torch.zeros(2, 3)}, TypeError, "expected idxs of an integer dtype, got torch.float32"),
        ({"counts": torch.zeros(3).long()}, ValueError, r"expected counts \[2\], got \[3\]"),
        ({"max_output": -1}, ValueError, "expected max_output >= 0, got -1"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"boxes": torch.zeros(2, 3, 4), "scores": torch.zeros(2, 3), "idxs": torch.zeros(2, 3).long()}
    with pytest.raises(error, match="padded_batched_nms: " + message):
        ops.padded_batched_nms(**{**arguments, **change}, iou_threshold=0.5)
