"""compat.ultralytics beside literal results of ultralytics 8.4.190 (``labels``: 8.4.120), and beside plain loops.

Coordinates are eighths of pixels, so that ultralytics' offsets of 7,680 px per class are exact, and confidences are
thirty-seconds, so that many are equal.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from cases import DEVICES, generator, non_contiguous
from torch import Tensor

from retinanet_fast import reference
from retinanet_fast.compat.ultralytics import non_max_suppression

# Of each image column:class, as ultralytics' `return_idxs` and rows have them.
LITERALS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "default": (
        {"conf_thres": 0.8},
        [
            "8:1 20:0 28:0 32:0 7:0 9:0 38:1 4:1 5:2 36:1 11:1 12:0 17:2 6:0 30:0 33:2 37:1 0:1",
            "5:1 7:2 14:2 6:2 11:0 13:0 21:0 33:0 37:2 1:0 30:0 2:1 20:1 3:2 18:2 29:1 32:0 39:2 10:2 35:1",
        ],
    ),
    "agnostic": (
        {"conf_thres": 0.7, "agnostic": True},
        [
            "8:1 20:0 28:0 32:0 7:0 9:0 4:1 5:2 36:1 11:1 12:0 17:2 6:0 30:0 37:1 0:1 35:1 24:2 10:2",
            "5:1 7:2 14:2 6:2 11:0 13:0 21:0 33:0 37:2 1:0 30:0 2:1 20:1 18:2 32:0 39:2 28:1 12:2",
        ],
    ),
    "multi_label": (
        {"conf_thres": 0.85, "multi_label": True},
        [
            "8:1 20:0 28:0 32:0 7:0 9:0 38:1 4:1 5:2 36:1 9:1 11:1 20:2 12:0 12:2 17:2",
            "5:1 7:2 14:2 6:2 11:0 13:0 21:0 33:0 37:2 1:0 30:0 37:0 2:1 20:1",
        ],
    ),
    "classes": (
        {"conf_thres": 0.6, "classes": [0, 2]},
        [
            "20:0 28:0 32:0 7:0 9:0 5:2 12:0 17:2 6:0 30:0 33:2 22:2 24:2 10:2 2:2 39:0",
            "7:2 14:2 6:2 11:0 13:0 21:0 33:0 37:2 1:0 30:0 3:2 18:2 32:0 39:2 10:2 12:2 9:2 31:0 15:2 19:0 26:0",
        ],
    ),
    "max_det": (
        {"conf_thres": 0.5, "iou_thres": 0.7, "max_det": 5},
        [
            "8:1 20:0 28:0 32:0 7:0",
            "5:1 7:2 14:2 6:2 11:0",
        ],
    ),
    "extra": (
        {"conf_thres": 0.85, "nc": 3},
        [
            "8:1 20:0 28:0 32:0 7:0 9:0 38:1 4:1 5:2 36:1 11:1 12:0 17:2",
            "5:1 7:2 14:2 6:2 11:0 13:0 21:0 33:0 37:2 1:0 30:0 2:1 20:1",
        ],
    ),
    "one class": (
        {"conf_thres": 0.5, "multi_label": True},
        [
            "20:0 28:0 32:0 7:0 9:0 12:0 6:0 30:0 11:0 37:0 10:0 24:0 39:0 23:0 2:0 19:0 35:0",
            "8:0 38:0 9:0 11:0 37:0 0:0 14:0 28:0 27:0 18:0 20:0 6:0 34:0 17:0",
        ],
    ),
    "none": (
        {"conf_thres": 1.0},
        [
            "",
            "",
        ],
    ),
    "max_nms": (
        {"conf_thres": 0.25, "max_nms": 12},
        [
            "12:2 7:2 19:1 26:2 1:2 29:2 4:2 10:1 15:0 37:2 22:1",
            "13:0 39:2 26:2 7:1 37:1 11:1 15:2 4:1 36:2 28:1 20:0 33:0",
        ],
    ),
}


def prediction(
    batch: int = 2, classes: int = 3, extra: int = 0, n: int = 40, seed: int = 0, distinct: bool = False
) -> Tensor:
    rng = generator(seed)
    boxes = torch.randint(40, 120, (batch, 4, n), generator=rng) / 4
    boxes[:, 2:] = boxes[:, 2:] / 2
    confidences = torch.randint(0, 33, (batch, classes, n), generator=rng) / 32
    if distinct:
        confidences = torch.randperm(batch * classes * n, generator=rng).view(batch, classes, n) / 256
    more = torch.randint(0, 9, (batch, extra, n), generator=rng) / 8
    return torch.cat([boxes, confidences, more], dim=1)


def in_plain_loops(
    x: Tensor,
    conf_thres: float,
    iou_thres: float,
    nc: int,
    multi_label: bool = False,
    agnostic: bool = False,
    max_det: int = 300,
) -> list[Tensor]:
    results = []
    for image in x:
        found = []
        for column in image.T:
            cx, cy, w, h = column[:4]
            corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            confidences = column[4 : 4 + nc]
            for label in range(nc) if multi_label else [int(confidences.argmax())]:
                if confidences[label] > conf_thres:
                    head = torch.stack([confidences[label], torch.tensor(float(label))])
                    found.append(torch.cat([corners, head, column[4 + nc :]]))
        rows = torch.stack(found) if found else x.new_zeros(0, 6 + x.shape[1] - 4 - nc)
        idxs = torch.zeros(len(rows)).long() if agnostic else rows[:, 5].long()
        kept = reference.batched_nms(rows[:, :4], rows[:, 4], idxs, iou_thres)
        results.append(rows[kept[:max_det]])
    return results


def same(actual: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_signature() -> None:
    # Of 8.4.120; 8.4.190 has no `labels`.
    names = (
        "prediction conf_thres iou_thres classes agnostic multi_label labels max_det nc max_time_img max_nms"
    )
    parameters = list(inspect.signature(non_max_suppression).parameters.values())
    assert [p.name for p in parameters] == [*names.split(), "max_wh", "rotated", "end2end", "return_idxs"]
    defaults = [0.25, 0.45, None, False, False, (), 300, 0, 0.05, 30000, 7680, False, False, False]
    assert [p.default for p in parameters[1:]] == defaults


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LITERALS)
def test_literals(name: str, device: str) -> None:
    options, expected = LITERALS[name]
    extra = options.get("nc", 0) and 2
    x = prediction(classes=1 if name == "one class" else 3, extra=extra, distinct=name == "max_nms").to(
        device
    )
    before = x.clone()
    output, indices = non_max_suppression(x, return_idxs=True, **options)
    assert torch.equal(x, before)
    assert isinstance(output, list)
    assert isinstance(indices, list)
    for image, (rows, columns) in enumerate(zip(output, indices, strict=True)):
        assert (rows.dtype, columns.dtype) == (torch.float32, torch.int64)
        found = zip(columns.tolist(), rows[:, 5].long().tolist(), strict=True)
        assert " ".join(f"{column}:{label}" for column, label in found) == expected[image]
        picked = x[image, :, columns].T
        corners = torch.cat([picked[:, :2] - picked[:, 2:4] / 2, picked[:, :2] + picked[:, 2:4] / 2], dim=1)
        assert torch.equal(rows[:, :4], corners)
        confidences = picked[:, 4:].gather(1, rows[:, 5:6].long())[:, 0]
        assert torch.equal(rows[:, 4], confidences)
        assert torch.equal(rows[:, 6:], picked[:, picked.shape[1] - extra :])
    alone = non_max_suppression([x, "losses"], **options)  # type: ignore[list-item]
    assert isinstance(alone, list)
    assert same(alone, output)


def test_rows_literal() -> None:
    rows = non_max_suppression(prediction(extra=2), 0.8, nc=3)[0]
    assert isinstance(rows, Tensor)
    assert rows.shape == (18, 8)
    assert rows[:3].tolist() == [
        [20.5625, 18.4375, 27.9375, 32.5625, 1.0, 1.0, 0.375, 0.25],
        [7.4375, 10.4375, 15.5625, 19.0625, 1.0, 0.0, 0.0, 0.25],
        [11.8125, 17.9375, 22.6875, 26.0625, 1.0, 0.0, 0.0, 1.0],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
def test_equals_plain_loops(multi_label: bool, agnostic: bool, dtype: torch.dtype) -> None:
    for seed in range(3):
        x = prediction(batch=3, classes=4, extra=1, n=60, seed=seed).to(dtype)
        for conf, iou, max_det in ((0.25, 0.45, 300), (0.9, 0.1, 7), (0.0, 0.0, 300), (0.5, 1.0, 300)):
            options = {"multi_label": multi_label, "agnostic": agnostic, "max_det": max_det, "nc": 4}
            expected = in_plain_loops(x.to(torch.promote_types(dtype, torch.float32)), conf, iou, **options)
            for image in (x, non_contiguous(x)):
                actual = non_max_suppression(image, conf, iou, **options)
                assert isinstance(actual, list)
                assert [rows.dtype for rows in actual] == [rows.dtype for rows in expected]
                assert same(actual, expected)


def test_labels_literal() -> None:
    x = prediction(seed=3)
    labels = [torch.tensor([[1, 20.0, 20, 8, 8], [0, 25, 25, 10, 6]]), torch.zeros(0, 5)]
    output = non_max_suppression(x, 0.8, labels=labels)
    assert [len(rows) for rows in output] == [20, 15]
    # A prediction of confidence 1, then the two labels, then the others.
    expected = [
        [12.875, 6.625, 27.125, 13.875, 1, 1],
        [16.0, 16, 24, 24, 1, 1],
        [20.0, 22, 30, 28, 1, 0],
        [17.875, 20.0625, 29.125, 31.4375, 0.96875, 2],
    ]
    assert isinstance(output[0], Tensor)
    assert output[0][:4].tolist() == expected
    without = non_max_suppression(x, 0.8)
    assert isinstance(without[1], Tensor)
    assert torch.equal(output[1], without[1])
    assert same(list(non_max_suppression(x, 0.8, labels=[torch.zeros(0, 5)] * 2)), list(without))
    only = non_max_suppression(x * 0, 0.8, labels=labels, multi_label=True)
    assert [rows.tolist() for rows in only] == [expected[1:3], []]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_end_to_end_literals(dtype: torch.dtype) -> None:
    x = prediction(classes=2, n=10).transpose(1, 2).to(dtype)
    x[..., 5] = (x[..., 5] * 3).floor()
    for options, expected in (
        ({}, [[0, 1, 2, 3, 4, 5, 7, 8, 9], [2, 3, 8, 9]]),
        ({"classes": [1, 2]}, [[0, 2, 3, 5, 7, 8], [2, 3, 8]]),
        ({"max_det": 2}, [[0, 1], [2, 3]]),
        ({"classes": [1], "max_det": 1}, [[5], [2]]),
    ):
        output, indices = non_max_suppression(x, 0.3, return_idxs=True, **options)  # type: ignore[arg-type]
        assert [columns.tolist() for columns in indices] == expected
        assert same(list(output), [x[i, rows].float() for i, rows in enumerate(expected)])
    wide = torch.cat([x, x[..., :1]], dim=-1)  # more channels, which the last dimension alone does not tell
    assert [rows.shape[1] for rows in non_max_suppression(wide, 0.3, end2end=True, nc=20)] == [7, 7]


def test_classes_do_not_meet() -> None:
    # ultralytics' offset of class 1 moves the second box onto the first, 7,680 px away.
    x = torch.tensor([[[7690.0, 10, 8, 8, 0.9, 0], [10, -7670, 8, 8, 0, 0.8]]]).transpose(1, 2)
    x = torch.cat([x] * 4, dim=2)  # another last dimension than 6
    assert len(non_max_suppression(x)[0]) == 2
    # At class 1,202 float32 offsets are whole pixels; the boxes' IoU is 0.43.
    far = torch.zeros(1, 4 + 1203, 2)
    far[0, :4, 0], far[0, :4, 1] = torch.tensor([10.0, 10, 1, 1]), torch.tensor([10.4, 10, 1, 1])
    far[0, -1] = torch.tensor([0.9, 0.8])
    assert [len(non_max_suppression(far, iou_thres=iou)[0]) for iou in (0.44, 0.42)] == [2, 1]


def test_nan_confidences_are_left_out() -> None:
    x = prediction()
    x[0, 4, :20] = torch.nan
    output, indices = non_max_suppression(x, 0.01, return_idxs=True, multi_label=True)
    assert isinstance(indices[0], Tensor)
    assert int(indices[0].min()) >= 20
    assert isinstance(output[0], Tensor)
    assert not output[0].isnan().any()


def test_empty_input() -> None:
    for shape in ((2, 7, 0), (2, 7, 5)):
        output, indices = non_max_suppression(torch.zeros(shape), return_idxs=True)
        assert [rows.shape for rows in output] == [(0, 6)] * 2
        assert [rows.shape for rows in indices] == [(0,)] * 2
    assert non_max_suppression(torch.zeros(0, 7, 5)) == []
    assert [len(rows) for rows in non_max_suppression(prediction(), classes=[])] == [0, 0]
    assert [len(rows) for rows in non_max_suppression(prediction(), max_det=0)] == [0, 0]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"conf_thres": 1.5}, ValueError, r"expected conf_thres in \[0, 1\], got 1.5"),
        ({"iou_thres": -0.1}, ValueError, r"expected iou_thres in \[0, 1\], got -0.1"),
        ({"rotated": True}, NotImplementedError, "rotated=True is not supported"),
        ({"nc": 4}, ValueError, r"with 1 <= nc <= C \+ E, got \[2, 7, 40\] and nc 4"),
        ({"labels": 100}, ValueError, "expected labels as a list of tensors, got int; pass max_det"),
        ({"labels": [torch.zeros(0, 5)]}, ValueError, "expected labels of 2 images, got 1"),
        ({"labels": [torch.zeros(0, 5)] * 2, "return_idxs": True}, ValueError, "no labels with return_idxs"),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"non_max_suppression: .*{message}"):
        non_max_suppression(prediction(), **options)
    with pytest.raises(ValueError, match=r"expected prediction \[B, 4 \+ C \+ E, N\], got \[7, 40\]"):
        non_max_suppression(prediction()[0])
    with pytest.raises(ValueError, match=r"got \[2, 4, 40\] and nc 0"):
        non_max_suppression(prediction()[:, :4])
