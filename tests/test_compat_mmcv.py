"""mmcv's NMS: values of its own code at commit a8073c74bf83d62ec36a103f835faa4837fb6585; signatures and errors.

The literal values below were computed by mmcv's C++ for the CPU, in float32.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from retinanet_fast import ops
from retinanet_fast.compat import mmcv

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
    with pytest.raises(
        TypeError, match=r"expected nms_cfg with iou_threshold, offset, .* max_num, got sigma"
    ):
        mmcv.batched_nms(
            torch.zeros(2, 4), torch.zeros(2), LABEL, {"type": "nms", "iou_threshold": 0.5, "sigma": 1}
        )


def test_a_list_is_no_array() -> None:
    with pytest.raises(TypeError, match="expected tensors or numpy arrays, got list"):
        mmcv.nms([[0.0, 0.0, 1.0, 1.0]], [0.5], 0.5)
