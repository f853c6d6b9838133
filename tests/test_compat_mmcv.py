"""mmcv's names: values of its own code at commit a8073c74bf83d62ec36a103f835faa4837fb6585, labels, errors.

The literal values below were computed by mmcv's C++ for the CPU (NMS) and by its CUDA kernels' code compiled for the
CPU (focal losses), both in float32.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

from retinanet_fast import ops, reference
from retinanet_fast.compat import mmcv

# Focal losses

LOGITS = [[1.5, -0.5, 0.0], [-2.0, 0.25, 3.0], [0.5, 0.5, -1.0], [0.0, -3.0, 1.0]]
WITH_BACKGROUND = [0, 3, 2, 1]  # 3 is background
CLASSES = [0, 2, 2, 1]
WEIGHT = [0.5, 2.0, 1.5]

SIGMOID_LOSSES = [
    [0.0016757126431912184, 0.05068012699484825, 0.12996509671211243],
    [0.0013526719994843006, 0.19577394425868988, 2.0747103691101074],
    [0.2830587327480316, 0.2830587327480316, 0.17546707391738892],
    [0.12996509671211243, 0.6915701627731323, 0.5264012813568115],
]
SIGMOID_GRADIENTS = [
    [-0.004257778637111187, 0.10345277190208435, 0.22371509671211243],
    [0.0036532049998641014, 0.3046826124191284, 0.8450624942779541],
    [0.3946138620376587, 0.3946138620376587, -0.19205868244171143],
    [0.22371509671211243, -0.28168749809265137, 0.5761760473251343],
]
WEIGHTED_SIGMOID_LOSSES = [  # of CLASSES, with WEIGHT
    [0.0008378563215956092, 0.025340063497424126, 0.06498254835605621],
    [0.002029007999226451, 0.2936609089374542, 4.098122735740617e-05],
    [0.42458808422088623, 0.42458808422088623, 0.2632006108760834],
    [0.25993019342422485, 1.3831403255462646, 1.052802562713623],
]
WEIGHTED_SIGMOID_GRADIENTS = [
    [-0.0021288893185555935, 0.051726385951042175, 0.11185754835605621],
    [0.005479807499796152, 0.4570239186286926, -0.00011807689588749781],
    [0.591920793056488, 0.591920793056488, -0.28808802366256714],
    [0.44743019342422485, -0.5633749961853027, 1.1523520946502686],
]
SOFTMAX_LOSSES = [0.005332897882908583, 7.436172018060461e-05, 0.4651504158973694, 1.053246259689331]
SOFTMAX_GRADIENTS = [
    [-0.012444773688912392, 0.004698408767580986, 0.007746366783976555],
    [2.0098439563298598e-05, 0.00019068867550231516, -0.00021078722784295678],
    [0.1376994103193283, 0.1376994103193283, -0.275398850440979],
    [0.07209071516990662, -0.2680535614490509, 0.19596286118030548],
]
WEIGHTED_SOFTMAX_GRADIENTS = [
    [-0.006222386844456196, 0.002349204383790493, 0.0038731833919882774],
    [3.01476611639373e-05, 0.000286033027805388, -0.00031618087086826563],
    [0.20654912292957306, 0.20654912292957306, -0.4130982756614685],
    [0.14418143033981323, -0.5361071228981018, 0.39192572236061096],
]
# mmcv computes 1 - p in float32, so that what is left of it has fewer digits where p is close to 1.
CLOSE = {"rtol": 2e-5, "atol": 1e-7}


def run(function: Any, target: list[int], weight: list[float] | None, reduction: str) -> Any:
    logits = torch.tensor(LOGITS, requires_grad=True)
    weights = None if weight is None else torch.tensor(weight)
    loss = function(logits, torch.tensor(target), 2.0, 0.25, weights, reduction)
    loss.sum().backward()
    return loss, logits.grad


def reduced(losses: list[Any], reduction: str) -> torch.Tensor:
    """As mmcv reduces: the mean is over rows."""
    table = torch.tensor(losses)
    return {"none": table, "sum": table.sum(), "mean": table.sum() / 4}[reduction]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    ("target", "weight", "losses", "gradients"),
    [
        (WITH_BACKGROUND, None, SIGMOID_LOSSES, SIGMOID_GRADIENTS),
        (CLASSES, WEIGHT, WEIGHTED_SIGMOID_LOSSES, WEIGHTED_SIGMOID_GRADIENTS),
    ],
)
def test_sigmoid_focal_loss(
    target: list[int], weight: list[float] | None, losses: Any, gradients: Any, reduction: str
) -> None:
    loss, gradient = run(mmcv.sigmoid_focal_loss, target, weight, reduction)
    torch.testing.assert_close(loss, reduced(losses, reduction), **CLOSE)
    scale = 4 if reduction == "mean" else 1
    torch.testing.assert_close(gradient, torch.tensor(gradients) / scale, **CLOSE)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    ("weight", "gradients"), [(None, SOFTMAX_GRADIENTS), (WEIGHT, WEIGHTED_SOFTMAX_GRADIENTS)]
)
def test_softmax_focal_loss(weight: list[float] | None, gradients: Any, reduction: str) -> None:
    loss, gradient = run(mmcv.softmax_focal_loss, CLASSES, weight, reduction)
    factors = [1.0] * 4 if weight is None else [weight[target] for target in CLASSES]
    losses = [loss * factor for loss, factor in zip(SOFTMAX_LOSSES, factors)]
    torch.testing.assert_close(loss, reduced(losses, reduction), **CLOSE)
    scale = 4 if reduction == "mean" else 1
    torch.testing.assert_close(gradient, torch.tensor(gradients) / scale, **CLOSE)


def test_background_is_c_and_any_number_that_is_no_class() -> None:
    logits = torch.tensor(LOGITS)
    for background in (3, -1, -2, 255):
        target = torch.full((4,), background)
        assert mmcv.sigmoid_focal_loss(logits, target, reduction="sum").item() == pytest.approx(
            4.54499531, rel=1e-6
        )
    # The ops' own labels are others: C is out of range, and -2 is ignored there.
    with pytest.raises(IndexError):
        ops.sigmoid_focal_loss(logits, torch.full((4,), 3))
    assert ops.sigmoid_focal_loss(logits, torch.full((4,), -2), reduction="sum").item() == 0


def test_weight_of_a_background_row_is_one() -> None:
    loss = mmcv.sigmoid_focal_loss(
        torch.tensor(LOGITS), torch.tensor(WITH_BACKGROUND), weight=torch.tensor(WEIGHT), reduction="none"
    )
    torch.testing.assert_close(loss[1], torch.tensor(SIGMOID_LOSSES[1]), **CLOSE)


def test_softmax_ignores_negative_targets() -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = mmcv.softmax_focal_loss(logits, torch.tensor([-1, 2, -1, 0]), reduction="none")
    expected = torch.tensor([0.0, 0.00007436, 0.0, 0.17897147])  # eight decimals
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=1e-8)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[[0, 2]].eq(0).all()
    with pytest.raises(IndexError):
        mmcv.softmax_focal_loss(logits, torch.tensor([3, 0, 0, 0]))


def test_losses_of_confident_logits_are_right() -> None:
    # mmcv has -ln(FLT_MIN) = 87.3 here, and 0 for the other one.
    logits = torch.tensor([[-100.0, 20.0]])
    loss = mmcv.sigmoid_focal_loss(logits, torch.tensor([0]), reduction="none")
    assert loss.tolist()[0] == pytest.approx([0.25 * 100, 0.75 * 20], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_focal_losses_of_other_dtypes(dtype: torch.dtype, reduction: str) -> None:
    target = torch.tensor(WITH_BACKGROUND)
    logits = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3].double()
    exact = reference.sigmoid_focal_loss(logits.detach().double(), one_hot, 0.25, 2.0)
    expected = {"none": exact, "sum": exact.sum(), "mean": exact.sum() / 4}[reduction]
    loss = mmcv.sigmoid_focal_loss(logits, target, reduction=reduction)
    loss.sum().backward()
    assert logits.grad is not None
    assert loss.dtype == logits.grad.dtype == dtype
    # Two roundings to the dtype; float64 differs by the order of operations.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=max(2 * eps, 1e-12), atol=1e-6 * eps)


def test_the_mean_in_float16_keeps_small_factors() -> None:
    # 1 / N is below float16's normal numbers, and the sum above its range.
    logits = torch.full((200_000, 1), 3.0, dtype=torch.float16, requires_grad=True)
    loss = mmcv.sigmoid_focal_loss(logits, torch.ones(200_000, dtype=torch.int64))
    p = 1 / (1 + math.exp(-3.0))
    assert loss.item() == pytest.approx(-0.75 * p * p * math.log(1 - p), rel=1e-3)  # float16's rounding
    loss.backward(torch.tensor(32768.0, dtype=torch.float16))  # a GradScaler's factor
    assert logits.grad is not None
    slope = 0.75 * p * p * (p - 2 * (1 - p) * math.log(1 - p))
    assert logits.grad[0, 0].item() == pytest.approx(slope * 32768 / 200_000, rel=2e-3)


def test_focal_losses_of_no_rows() -> None:
    for function in (mmcv.sigmoid_focal_loss, mmcv.softmax_focal_loss):
        empty = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.int64)
        assert function(*empty, reduction="sum").item() == 0
        assert math.isnan(function(*empty).item())


def test_focal_loss_modules() -> None:
    logits, target = torch.tensor(LOGITS), torch.tensor(CLASSES)
    for module, function in (
        (mmcv.SigmoidFocalLoss, mmcv.sigmoid_focal_loss),
        (mmcv.SoftmaxFocalLoss, mmcv.softmax_focal_loss),
    ):
        loss = module(2.0, 0.25, torch.tensor(WEIGHT), "sum")
        assert list(loss.state_dict()) == ["weight"]
        expected = function(logits, target, 2.0, 0.25, torch.tensor(WEIGHT), "sum")
        assert loss(logits, target).item() == expected.item()
        assert list(module(2.0, 0.25).state_dict()) == []
    assert repr(mmcv.SigmoidFocalLoss(2.0, 0.25)) == "SigmoidFocalLoss(gamma=2.0, alpha=0.25, reduction=mean)"


# NMS

BOXES = [  # mmcv's own example
    [49.1, 32.4, 51.0, 35.9],
    [49.3, 32.9, 51.0, 35.3],
    [49.2, 31.8, 51.0, 35.4],
    [35.1, 11.5, 39.1, 15.7],
    [35.6, 11.8, 39.3, 14.2],
    [35.3, 11.5, 39.9, 14.5],
    [35.2, 11.7, 39.7, 15.7],
]
SCORES = [0.9, 0.9, 0.5, 0.5, 0.5, 0.4, 0.3]
CLASSES_OF_BOXES = [0, 0, 1, 1, 0, 1, 0]
# Whole pixels, corners included: with offset 1 the second box is half of the first.
PIXELS = [[0.0, 0, 9, 9], [0, 0, 9, 4], [5, 0, 9, 9], [0, 0, 9, 8]]
PIXEL_SCORES = [0.9, 0.8, 0.7, 0.6]


@pytest.mark.parametrize(
    ("offset", "iou_threshold", "expected"),
    [
        (0, 0.3, [0, 3]),
        (0, 0.6, [0, 3, 4]),
        (0, 0.7, [0, 1, 2, 3, 4, 5]),
        (1, 0.3, [0, 3]),
        (1, 0.6, [0, 3, 4]),
        (1, 0.7, [0, 3, 4]),
    ],
)
def test_nms(offset: int, iou_threshold: float, expected: list[int]) -> None:
    boxes, scores = torch.tensor(BOXES), torch.tensor(SCORES)
    dets, inds = mmcv.nms(boxes, scores, iou_threshold, offset)
    assert (inds.tolist(), inds.dtype) == (expected, torch.int64)
    assert torch.equal(dets, torch.cat((boxes, scores[:, None]), dim=1)[expected])


@pytest.mark.parametrize(
    ("offset", "iou_threshold", "expected"), [(0, 0.49, [0, 1, 2]), (1, 0.5, [0, 1, 2]), (1, 0.49, [0])]
)
def test_nms_with_corners_included(offset: int, iou_threshold: float, expected: list[int]) -> None:
    for dtype in (torch.float32, torch.float16, torch.float64):
        _, inds = mmcv.nms(
            torch.tensor(PIXELS, dtype=dtype), torch.tensor(PIXEL_SCORES), iou_threshold, offset
        )
        assert inds.tolist() == expected


def test_nms_threshold_is_float32() -> None:
    # 4 / 10 and 0.4 are one number in float32, which is above 0.4 in float64.
    boxes, scores = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4]]), torch.tensor([0.9, 0.8])
    assert mmcv.nms(boxes, scores, 0.4)[1].tolist() == [0, 1]
    assert ops.nms(boxes, scores, 0.4).tolist() == [0]


def test_nms_filters_by_score_and_number() -> None:
    boxes, scores = torch.tensor(BOXES), torch.tensor(SCORES)
    assert mmcv.nms(boxes, scores, 0.6, 0, 0.45, 2)[1].tolist() == [0, 3]
    assert mmcv.nms(boxes, scores, 0.6, 0, 0.3)[1].tolist() == [0, 3, 4]  # 0.3 is not above 0.3
    assert mmcv.nms(boxes[:0], scores[:0], 0.6)[0].shape == (0, 5)


def test_nms_of_numpy_arrays() -> None:
    boxes, scores = np.array(BOXES, dtype=np.float32), np.array(SCORES, dtype=np.float32)
    for function in (mmcv.nms, mmcv.soft_nms):
        dets, inds = function(boxes, scores, 0.6)
        assert isinstance(dets, np.ndarray)
        assert isinstance(inds, np.ndarray)
        assert (dets.dtype, inds.dtype) == (np.float32, np.int64)
        expected = function(torch.tensor(BOXES), torch.tensor(SCORES), 0.6)
        np.testing.assert_array_equal(inds, expected[1].numpy())
        np.testing.assert_array_equal(dets, expected[0].numpy())
    # float64 scores of float32 boxes: mmcv sorts them as they are.
    close = np.array([0.5, 0.5 + 1e-12])
    assert mmcv.nms(boxes[[0, 0]], close, 0.6)[1].tolist() == [1]


def test_nms_gives_the_boxes_their_gradient() -> None:
    boxes, scores = torch.tensor(BOXES, requires_grad=True), torch.tensor(SCORES, requires_grad=True)
    dets, inds = mmcv.nms(boxes, scores, 0.6)
    dets.sum().backward()
    assert boxes.grad is not None
    assert boxes.grad.sum(dim=1).nonzero().flatten().tolist() == sorted(inds.tolist())


SOFT = {
    ("naive", 0): ([0, 3], [0.8999999761581421, 0.5]),
    ("naive", 1): ([0, 3], [0.8999999761581421, 0.5]),
    ("linear", 0): ([0, 3, 1, 4], [0.8999999761581421, 0.5, 0.3478202819824219, 0.25694453716278076]),
    ("linear", 1): ([0, 3, 1, 4], [0.8999999761581421, 0.5, 0.2668971121311188, 0.21326839923858643]),
    ("gaussian", 0): ([0, 3, 1, 4], [0.8999999761581421, 0.5, 0.4239218831062317, 0.31168729066848755]),
    ("gaussian", 1): ([0, 3, 1, 4], [0.8999999761581421, 0.5, 0.33452698588371277, 0.2590155303478241]),
}


@pytest.mark.parametrize(("method", "offset"), SOFT)
def test_soft_nms(method: str, offset: int) -> None:
    boxes = torch.tensor(BOXES)
    dets, inds = mmcv.soft_nms(boxes, torch.tensor(SCORES), 0.3, 0.5, 0.1, method, offset)
    expected, scores = SOFT[method, offset]
    # The second box, equal in score, comes after 3 and not before: its score has been lowered by then.
    assert (inds.tolist(), inds.dtype) == (expected, torch.int64)
    assert torch.equal(dets[:, :4], boxes[expected])
    assert dets[:, 4].tolist() == pytest.approx(scores, rel=1e-6)  # the last digits of exp


def test_soft_nms_of_boxes_without_area_and_of_none() -> None:
    points = torch.tensor([[3.0, 1, 3, 1], [3, 1, 3, 1]])
    dets, inds = mmcv.soft_nms(points, torch.tensor([0.5, 0.6]), method="gaussian")
    assert inds.tolist() == [1, 0]
    assert dets[:, 4].tolist() == pytest.approx([0.6, 0.5])
    dets, inds = mmcv.soft_nms(points[:0], torch.zeros(0))
    assert (dets.shape, inds.shape, inds.dtype) == ((0, 5), (0,), torch.int64)
    # The best box stays, whatever its score.
    assert mmcv.soft_nms(torch.tensor(BOXES), torch.full((7,), 1e-4))[1].tolist() == [0]


BATCHED: list[tuple[dict[str, Any], list[int]]] = [
    ({"type": "nms", "iou_threshold": 0.6}, [0, 2, 3, 4, 5, 6]),
    ({"type": "nms", "iou_thr": 0.6}, [0, 2, 3, 4, 5, 6]),
    ({"iou_threshold": 0.3, "max_num": 3}, [0, 2, 3]),
    ({"type": "nms", "iou_threshold": 0.3, "score_threshold": 0.45}, [0, 2, 3, 4]),
    ({"type": "nms", "iou_threshold": 0.3, "split_thr": 2}, [0, 2, 3, 4]),
    ({"type": "nms", "iou_threshold": 0.3, "class_agnostic": True}, [0, 3]),
]


@pytest.mark.parametrize("idxs_dtype", [torch.int64, torch.int32, torch.float32])
@pytest.mark.parametrize(("nms_cfg", "expected"), BATCHED)
def test_batched_nms(nms_cfg: dict[str, Any], expected: list[int], idxs_dtype: torch.dtype) -> None:
    boxes, scores = torch.tensor(BOXES), torch.tensor(SCORES)
    before = dict(nms_cfg)
    dets, keep = mmcv.batched_nms(boxes, scores, torch.tensor(CLASSES_OF_BOXES, dtype=idxs_dtype), nms_cfg)
    assert keep.tolist() == expected
    assert torch.equal(dets, torch.cat((boxes, scores[:, None]), dim=1)[expected])
    assert nms_cfg == before


def test_batched_soft_nms() -> None:
    nms_cfg = {"type": "soft_nms", "iou_threshold": 0.3, "min_score": 0.1}
    arguments = torch.tensor(BOXES), torch.tensor(SCORES), torch.tensor(CLASSES_OF_BOXES)
    dets, keep = mmcv.batched_nms(*arguments, nms_cfg)
    assert keep.tolist() == [0, 2, 3, 4, 1, 5, 6]
    # mmcv moves the classes apart, which rounds these coordinates in their last digits.
    scores = [0.9, 0.5, 0.5, 0.5, 0.3478202819824219, 0.16250024735927582, 0.15200001001358032]
    assert dets[:, 4].tolist() == pytest.approx(scores, rel=1e-4)
    assert torch.equal(dets[:, :4], arguments[0][keep])
    assert mmcv.batched_nms(*arguments, {**nms_cfg, "max_num": 2})[1].tolist() == [0, 2]


def test_batched_nms_without_nms_and_without_boxes() -> None:
    boxes, scores, idxs = torch.tensor(BOXES), torch.tensor(SCORES), torch.tensor(CLASSES_OF_BOXES)
    dets, keep = mmcv.batched_nms(boxes.flip(0), scores.flip(0), idxs, None)
    assert keep.tolist() == [5, 6, 2, 3, 4, 1, 0]
    assert dets[:, 4].tolist() == scores.tolist()
    for nms_cfg in ({"type": "nms", "iou_threshold": 0.5}, {"type": "soft_nms"}):
        dets, keep = mmcv.batched_nms(boxes[:0], scores[:0], idxs[:0], nms_cfg)
        assert (dets.shape, keep.shape) == ((0, 5), (0,))


def test_nms_match() -> None:
    dets = torch.cat((torch.tensor(BOXES), torch.tensor(SCORES)[:, None]), dim=1)
    groups = mmcv.nms_match(dets, 0.6)
    assert [group.tolist() for group in groups] == [[0, 1, 2], [3, 6], [4, 5]]
    assert all(group.dtype == torch.int64 for group in groups)
    as_arrays = mmcv.nms_match(dets.numpy(), 0.6)
    assert isinstance(as_arrays[0], np.ndarray)
    assert [group.tolist() for group in as_arrays] == [[0, 1, 2], [3, 6], [4, 5]]
    # IoU >= threshold here, where nms has >: 7 / 10 and 0.7 are one number in float32.
    equal = torch.tensor([[0.0, 0, 10, 10, 0.9], [0, 0, 10, 7, 0.8]])
    assert [group.tolist() for group in mmcv.nms_match(equal, 0.7)] == [[0, 1]]
    assert [group.tolist() for group in mmcv.nms_match(equal, 0.70001)] == [[0], [1]]
    assert mmcv.nms_match(np.array([]), 0.6) == []
    # The first kept box takes a box that two kept ones overlap.
    chain = torch.tensor([[0.0, 0, 10, 10, 0.9], [8, 0, 18, 10, 0.8], [4, 0, 14, 10, 0.7]])
    assert [group.tolist() for group in mmcv.nms_match(chain, 0.4)] == [[0, 2], [1]]


# Signatures, errors

SIGNATURES = {
    mmcv.sigmoid_focal_loss: "input target gamma=2.0 alpha=0.25 weight=None reduction=mean",
    mmcv.softmax_focal_loss: "input target gamma=2.0 alpha=0.25 weight=None reduction=mean",
    mmcv.SigmoidFocalLoss: "gamma alpha weight=None reduction=mean",
    mmcv.SoftmaxFocalLoss: "gamma alpha weight=None reduction=mean",
    mmcv.nms: "boxes scores iou_threshold offset=0 score_threshold=0 max_num=-1",
    mmcv.soft_nms: "boxes scores iou_threshold=0.3 sigma=0.5 min_score=0.001 method=linear offset=0",
    mmcv.batched_nms: "boxes scores idxs nms_cfg class_agnostic=False",
    mmcv.nms_match: "dets iou_threshold",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures_are_mmcvs(function: Any) -> None:
    parameters = inspect.signature(function).parameters.values()
    found = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters]
    assert found == SIGNATURES[function].split()


def test_the_older_name_of_the_threshold() -> None:
    boxes, scores = torch.tensor(BOXES), torch.tensor(SCORES)
    with pytest.warns(DeprecationWarning, match='use "iou_threshold"'):
        _, inds = mmcv.nms(boxes, scores, iou_thr=0.6)
    assert inds.tolist() == [0, 3, 4]


LOGIT, LABEL = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
WRONG: list[tuple[Any, tuple[Any, ...], type[Exception], str]] = [
    (mmcv.sigmoid_focal_loss, (LOGIT[0], LABEL), ValueError, r"sigmoid_focal_loss: expected input \[N, C\]"),
    (mmcv.sigmoid_focal_loss, (LOGIT, LABEL[:1]), ValueError, r"expected target \[2\], got \[1\]"),
    (
        mmcv.softmax_focal_loss,
        (LOGIT, LABEL.float()),
        TypeError,
        "softmax_focal_loss: expected target of dtype",
    ),
    (
        mmcv.sigmoid_focal_loss,
        (LOGIT, LABEL, 2.0, 0.25, LOGIT[0, :2]),
        ValueError,
        r"weight \[3\], got \[2\]",
    ),
    (mmcv.softmax_focal_loss, (LOGIT, LABEL, 2.0, 0.25, None, "avg"), ValueError, "reduction .* got 'avg'"),
    (mmcv.nms, (torch.zeros(2, 5), torch.zeros(2), 0.5), ValueError, r"nms: expected boxes \[N, 4\]"),
    (mmcv.nms, (torch.zeros(2, 4), torch.zeros(3), 0.5), ValueError, r"expected scores \[2\], got \[3\]"),
    (mmcv.nms, (torch.zeros(2, 4), torch.zeros(2), 0.5, 2), ValueError, "expected offset 0 or 1, got 2"),
    (mmcv.soft_nms, (torch.zeros(2, 4), torch.zeros(2), 0.3, 0.5, 0.1, "cubic"), ValueError, "got 'cubic'"),
    (mmcv.batched_nms, (torch.zeros(2, 5), torch.zeros(2), LABEL, {}), ValueError, "rotated boxes"),
    (
        mmcv.batched_nms,
        (torch.zeros(2, 4), torch.zeros(2), LABEL[:1], {}),
        ValueError,
        r"idxs \[2\], got \[1\]",
    ),
    (
        mmcv.batched_nms,
        (torch.zeros(2, 4), torch.zeros(2), LABEL, {"type": "nms_rotated"}),
        ValueError,
        "got 'nms_rotated'",
    ),
    (mmcv.nms_match, (np.zeros((2, 3)), 0.5), ValueError, r"nms_match: expected dets \[N, 5\], got \[2, 3\]"),
]


@pytest.mark.parametrize(("function", "arguments", "error", "message"), WRONG)
def test_errors_say_what_was_expected(
    function: Any, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(*arguments)


def test_an_unknown_setting_of_nms_cfg_is_an_error() -> None:
    with pytest.raises(TypeError, match="sigma"):
        mmcv.batched_nms(
            torch.zeros(2, 4), torch.zeros(2), LABEL, {"type": "nms", "iou_threshold": 0.5, "sigma": 1}
        )
