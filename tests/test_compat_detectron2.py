"""detectron2's targets, losses and model: values of its own code at commit 02b5c4e295e990042a714712c21dc79b731e8833.

The literal values below were computed by that code on the inputs that this file and its stand-in make.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from detectron2_stand_in import (
    FEATURES,
    Boxes,
    Instances,
    K,
    RetinaNet,
    as_rows,
    head_outputs,
    install,
    model,
)
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.compat import detectron2 as compat

GT_BOXES = [
    [(10.0, 12.0, 34.0, 36.0), (30.0, 8.0, 78.0, 58.0)],
    [],
    [(2.0, 2.0, 14.0, 60.0), (40.0, 40.0, 60.0, 62.0), (41.0, 40.0, 61.0, 62.0)],
]
GT_CLASSES = [[0, 2], [], [1, 2, 0]]
# Image by image: foreground anchors with their class, and ignored ones. The rest is background.
FOREGROUND = [{18: 0, 19: 0, 20: 0, 74: 2}, {}, {17: 1, 32: 1, 54: 2, 55: 0}]
IGNORED = [[64, 65, 73], [], [56]]


def gt_instances() -> list[Instances]:
    return [
        Instances(
            (64, 80),
            gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
            gt_classes=torch.tensor(classes, dtype=torch.int64),
        )
        for boxes, classes in zip(GT_BOXES, GT_CLASSES)
    ]


def expected_labels() -> list[Tensor]:
    labels = [torch.full((78,), K) for _ in GT_BOXES]
    for image, (foreground, ignored) in enumerate(zip(FOREGROUND, IGNORED)):
        for anchor, label in foreground.items():
            labels[image][anchor] = label
        labels[image][ignored] = -1
    return labels


# Targets


def test_label_anchors_gives_detectron2s_labels() -> None:
    retinanet = model()
    labels, boxes = retinanet.label_anchors(retinanet.anchor_generator(FEATURES), gt_instances())
    for ours, expected in zip(labels, expected_labels(), strict=True):
        assert ours.dtype == torch.int64
        assert ours.tolist() == expected.tolist()
    first, second, third = (torch.tensor(box) for box in GT_BOXES[2])
    assert boxes[2][[17, 32, 54, 55]].tolist() == torch.stack((first, first, second, third)).tolist()
    assert boxes[1].tolist() == torch.zeros(78, 4).tolist()


def test_label_anchors_of_tensors_is_the_same() -> None:
    anchors = torch.cat([level.tensor for level in RetinaNet(K).anchor_generator(FEATURES)])
    gt_boxes = [torch.tensor(boxes).reshape(-1, 4) for boxes in GT_BOXES]
    gt_classes = [torch.tensor(classes, dtype=torch.int64) for classes in GT_CLASSES]
    labels, _ = compat.label_anchors(anchors, gt_boxes, gt_classes, K)
    assert [x.tolist() for x in labels] == [x.tolist() for x in expected_labels()]


@pytest.mark.parametrize(
    ("thresholds", "labels", "low_quality"),
    [
        ([0.4, 0.5], [0, -1, 1], True),
        ([0.3, 0.7], [0, -1, 1], False),
        ([0.5], [0, 1], True),
        # Not a rule of ops.match_anchors: through the matrix of IoUs.
        ([0.2, 0.4, 0.6], [-1, 0, -1, 1], True),
    ],
)
def test_a_matcher_of_any_levels(thresholds: list[float], labels: list[int], low_quality: bool) -> None:
    retinanet = model(anchor_matcher=compat.Matcher(thresholds, labels, low_quality))
    anchors = retinanet.anchor_generator(FEATURES)
    found, _ = retinanet.label_anchors(anchors, gt_instances())
    table = torch.cat([level.tensor for level in anchors])
    for image, boxes, classes in zip(found, GT_BOXES, GT_CLASSES):
        if not boxes:
            assert image.eq(K).all()  # whatever the lowest level's label
            continue
        matches, match_labels = retinanet.anchor_matcher(reference.box_iou(torch.tensor(boxes), table))
        expected = torch.tensor(classes)[matches]
        expected[match_labels == 0] = K
        expected[match_labels == -1] = -1
        assert image.tolist() == expected.tolist()


QUALITY = torch.tensor([[0.1, 0.45, 0.6, 0.0, 0.3], [0.35, 0.45, 0.2, 0.0, 0.3]])


@pytest.mark.parametrize(
    ("thresholds", "labels", "low_quality", "expected"),
    [
        ([0.4, 0.5], [0, -1, 1], True, [0, 1, 1, 0, 0]),
        ([0.4, 0.5], [0, -1, 1], False, [0, -1, 1, 0, 0]),
        ([0.5], [0, 1], True, [0, 1, 1, 0, 0]),
        ([0.3, 0.4, 0.5], [-1, 0, -1, 1], False, [0, -1, 1, -1, 0]),
    ],
)
def test_matcher_of_a_matrix(
    thresholds: list[float], labels: list[int], low_quality: bool, expected: list[int]
) -> None:
    matches, match_labels = compat.Matcher(thresholds, labels, low_quality)(QUALITY)
    assert (matches.tolist(), matches.dtype) == ([1, 0, 0, 0, 0], torch.int64)
    assert (match_labels.tolist(), match_labels.dtype) == (expected, torch.int8)


def test_matcher_without_ground_truth_gives_the_lowest_label() -> None:
    matches, labels = compat.Matcher([0.4, 0.5], [-1, 0, 1])(torch.zeros(0, 4))
    assert (matches.tolist(), labels.tolist()) == ([0, 0, 0, 0], [-1, -1, -1, -1])


def test_matcher_of_boxes_agrees_with_the_matrix() -> None:
    matcher = compat.Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    anchors = RetinaNet(K).anchor_generator(FEATURES)
    gt_boxes = Boxes(torch.tensor(GT_BOXES[2]))
    table = torch.cat([level.tensor for level in anchors])
    matches, labels = matcher(reference.box_iou(gt_boxes.tensor, table))
    our_matches, our_labels = matcher.match_boxes(gt_boxes, anchors)
    assert our_labels.tolist() == labels.tolist()
    assert our_matches[labels == 1].tolist() == matches[labels == 1].tolist()


# Losses: loss_cls and loss_box_reg of three steps, and the sum of the absolute gradients of loss_cls + 2 loss_box_reg
# by the two levels of logits and of deltas, after the first step.

LOSS_CLS = (1.4827654, 1.6315452, 1.7935085)
LOGIT_GRADIENTS = (1.193173885345459, 0.33312806487083435)
NORMALIZERS = (90.8, 82.52, 75.068)
BOX_LOSSES = {
    ("smooth_l1", 0.1): ((0.1266753, 0.1393859, 0.1532227), (0.6089701652526855, 0.08810572326183319)),
    ("smooth_l1", 0.0): ((0.1442621, 0.1587373, 0.1744951), (0.6167400479316711, 0.08810572326183319)),
    ("giou", 0.1): ((0.0840184, 0.0924488, 0.1016262), (0.22968456149101257, 0.040802717208862305)),
    ("diou", 0.0): ((0.0744365, 0.0819055, 0.0900362), (0.182928204536438, 0.03126539662480354)),
    ("ciou", 0.0): ((0.0747836, 0.0822873, 0.090456), (0.18374103307724, 0.031046565622091293)),
}
# The literals have 7 digits; sums of 200 float32 losses in another order agree to about as many.
CLOSE = {"rel": 1e-5}


@pytest.mark.parametrize(("kind", "beta"), BOX_LOSSES)
def test_losses_and_normalizer_of_three_steps(
    kind: str, beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = install(monkeypatch)
    retinanet = model(box_reg_loss_type=kind, smooth_l1_beta=beta)
    box_losses, _ = BOX_LOSSES[kind, beta]
    for step in range(3):
        losses = retinanet.forward_training(None, FEATURES, head_outputs(), gt_instances())
        assert list(losses) == ["loss_cls", "loss_box_reg"]
        assert losses["loss_cls"].item() == pytest.approx(LOSS_CLS[step], **CLOSE)
        assert losses["loss_box_reg"].item() == pytest.approx(box_losses[step], **CLOSE)
        assert retinanet.loss_normalizer == pytest.approx(NORMALIZERS[step], rel=1e-12)
    assert storage.scalars == {"num_pos_anchors": pytest.approx(8 / 3)}


@pytest.mark.parametrize(("kind", "beta"), BOX_LOSSES)
def test_gradients_of_the_losses(kind: str, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    logits, deltas = head_outputs()
    losses = model(box_reg_loss_type=kind, smooth_l1_beta=beta).forward_training(
        None, FEATURES, (logits, deltas), gt_instances()
    )
    (losses["loss_cls"] + 2 * losses["loss_box_reg"]).backward()
    sums = [level.grad.abs().sum().item() for level in (*logits, *deltas)]
    assert sums == pytest.approx([*LOGIT_GRADIENTS, *BOX_LOSSES[kind, beta][1]], **CLOSE)


def functional_losses(
    outputs: tuple[list[Tensor], list[Tensor]], labels: list[Tensor], **settings: Any
) -> dict[str, Tensor]:
    anchors = RetinaNet(K).anchor_generator(FEATURES)
    gt_boxes = [torch.tensor(boxes).reshape(-1, 4) for boxes in GT_BOXES]
    gt_classes = [torch.tensor(classes, dtype=torch.int64) for classes in GT_CLASSES]
    _, matched = compat.label_anchors(anchors, gt_boxes, gt_classes, K)
    rows = as_rows(outputs[0], K), as_rows(outputs[1], 4)
    return compat.retinanet_losses(anchors, rows[0], labels, rows[1], matched, num_classes=K, **settings)


def test_losses_of_tensors_with_each_normalizer() -> None:
    normalizer = compat.LossNormalizer()
    steps = [
        functional_losses(head_outputs(), expected_labels(), loss_normalizer=normalizer) for _ in range(3)
    ]
    assert [step["loss_cls"].item() for step in steps] == pytest.approx(LOSS_CLS, **CLOSE)
    assert normalizer.value == pytest.approx(NORMALIZERS[2], rel=1e-12)
    # A number is taken as it is; the default is the number of foreground anchors, 8 here.
    for setting, divisor in ((2.0, 2.0), (None, 8.0)):
        losses = functional_losses(head_outputs(), expected_labels(), loss_normalizer=setting)
        assert losses["loss_cls"].item() * divisor == pytest.approx(LOSS_CLS[0] * NORMALIZERS[0], **CLOSE)


def test_background_is_k_and_ignored_is_minus_one() -> None:
    logits, deltas = head_outputs()
    functional_losses((logits, deltas), expected_labels())["loss_cls"].backward()
    gradient = torch.cat(as_rows([level.grad for level in logits], K), dim=1)
    for image, labels in enumerate(expected_labels()):
        assert gradient[image][labels == -1].eq(0).all()
        assert gradient[image][labels == K].gt(0).all()
        for anchor, label in FOREGROUND[image].items():
            assert [g < 0 for g in gradient[image, anchor].tolist()] == [c == label for c in range(K)]
    # The ops' own labels are others: K is out of range, and -1 is background there.
    with pytest.raises(IndexError):
        ops.sigmoid_focal_loss(torch.zeros(1, K), torch.tensor([K]))
    assert ops.sigmoid_focal_loss(torch.zeros(1, K), torch.tensor([-1])).gt(0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32(dtype: torch.dtype) -> None:
    half = head_outputs(dtype)
    losses = functional_losses(half, expected_labels(), loss_normalizer=90.8)
    wide = tuple([x.detach().float().requires_grad_() for x in levels] for levels in half)
    expected = functional_losses(wide, expected_labels(), loss_normalizer=90.8)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-6)  # the order of float32 sums
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for level, wide_level in zip(half[0] + half[1], wide[0] + wide[1]):
        assert level.grad.dtype == dtype
        # One rounding to the half type; below its smallest normal numbers, to a multiple of 2^-24.
        torch.testing.assert_close(
            level.grad.float(), wide_level.grad, rtol=2 * torch.finfo(dtype).eps, atol=6e-8
        )


def test_a_batch_without_foreground() -> None:
    logits, deltas = head_outputs()
    losses = functional_losses((logits, deltas), [torch.full((78,), K)] * 3)
    sum(losses.values()).backward()
    assert losses["loss_box_reg"].item() == 0
    assert losses["loss_cls"].item() > 0  # divided by 1
    assert all(level.grad.eq(0).all() for level in deltas)


# The model


def test_accelerate_retinanet_keeps_the_object() -> None:
    original = RetinaNet(K)
    state = original.state_dict()
    accelerated = compat.accelerate_retinanet(original)
    assert accelerated is original
    assert isinstance(accelerated, RetinaNet)
    assert isinstance(accelerated, compat.RetinaNetMixin)
    assert type(accelerated).__name__ == "RetinaNet"
    assert accelerated.state_dict().keys() == state.keys()
    assert compat.accelerate_retinanet(accelerated) is accelerated


def test_methods_of_a_subclass_are_named_and_kept() -> None:
    class Weighted(RetinaNet):
        def losses(self, *arguments: Any) -> Any:
            return {}

    subclass = Weighted(K)
    with pytest.raises(
        TypeError, match="expected detectron2's own losses, got those of Weighted; put RetinaNetMixin"
    ):
        compat.accelerate_retinanet(subclass)
    assert type(subclass) is Weighted


def test_another_box_coding_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted(compat.Box2BoxTransform):
        def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
            return super().get_deltas(src_boxes, target_boxes) + 1

    install(monkeypatch)
    retinanet = model(box2box_transform=Shifted((1.0, 1.0, 1.0, 1.0)))
    losses = retinanet.forward_training(None, FEATURES, head_outputs(), gt_instances())
    assert losses["loss_box_reg"].item() > 1.5 * BOX_LOSSES["smooth_l1", 0.0][0][0]


SIGNATURES = {
    # Of the originals; label_anchors, retinanet_losses and retinanet_inference are functions of our own.
    compat.batched_nms: "boxes scores idxs iou_threshold",
    compat.pairwise_iou: "boxes1 boxes2",
    compat.Box2BoxTransform: "weights scale_clamp",
    compat.Box2BoxTransform.get_deltas: "self src_boxes target_boxes",
    compat.Box2BoxTransform.apply_deltas: "self deltas boxes",
    compat.Matcher: "thresholds labels allow_low_quality_matches",
    compat.DefaultAnchorGenerator: "sizes aspect_ratios strides offset",
    compat.RetinaNetMixin.label_anchors: "self anchors gt_instances",
    compat.RetinaNetMixin.losses: "self anchors pred_logits gt_labels pred_anchor_deltas gt_boxes",
    compat.RetinaNetMixin.forward_inference: "self images features predictions",
    compat.RetinaNetMixin.inference_single_image: "self anchors box_cls box_delta image_size",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signatures_are_the_originals(function: Any) -> None:
    assert list(inspect.signature(function).parameters) == SIGNATURES[function].split()


def test_defaults_are_the_originals() -> None:
    assert compat.Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).scale_clamp == math.log(1000.0 / 16)
    assert inspect.signature(compat.Matcher).parameters["allow_low_quality_matches"].default is False
    assert inspect.signature(compat.DefaultAnchorGenerator).parameters["offset"].default == 0.5


# Errors


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="box_reg_loss_type one of"):
        functional_losses(head_outputs(), expected_labels(), box_reg_loss_type="l2")
    with pytest.raises(ValueError, match=r"expected gt_labels \[78\]"):
        functional_losses(head_outputs(), [labels[:70] for labels in expected_labels()])
    with pytest.raises(ValueError, match=r"expected pred_logits \[3, 60, 3\]"):
        compat.retinanet_losses([], [torch.zeros(3, 60, 4)], [torch.zeros(60)] * 3, [], [], num_classes=K)
    with pytest.raises(IndexError):  # more classes in the labels than the model has
        functional_losses(head_outputs(), [torch.full((78,), K + 1)] * 3)
    with pytest.raises(
        TypeError, match="expected a RetinaNet of detectron2's, got Linear without num_classes"
    ):
        compat.accelerate_retinanet(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="positive thresholds"):
        compat.Matcher([0.5, 0.4], [0, -1, 1])
    with pytest.raises(ValueError, match="expected 3 labels of -1, 0 and 1"):
        compat.Matcher([0.4, 0.5], [0, 1])
    with pytest.raises(ValueError, match=r"\[M, N\]"):
        compat.Matcher([0.5], [0, 1])(torch.zeros(3))


def test_a_box_without_area_is_an_error() -> None:
    anchors = RetinaNet(K).anchor_generator(FEATURES)
    with pytest.raises(ValueError, match="match_anchors"):
        compat.label_anchors(anchors, [torch.tensor([[5.0, 5, 5, 9]])], [torch.tensor([0])], K)
