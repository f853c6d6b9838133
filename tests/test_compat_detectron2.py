"""detectron2's names: values of its own code at commit 02b5c4e295e990042a714712c21dc79b731e8833, labels, errors.

The literal values below were computed by that code on the inputs that this file makes.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from detectron2_stand_in import Boxes, ImageList, Instances, RetinaNet, install, wave
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.compat import detectron2 as compat

K = 3
GRIDS = ((4, 5), (2, 3))  # 60 and 18 anchors, 3 a cell, on an image of 64 x 80 pixels
FEATURES = [torch.zeros(3, 1, *grid) for grid in GRIDS]
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


def head_outputs(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[Tensor]]:
    logits = [
        wave(3, 3 * K, *grid, step=0.7 + level * 0.2, scale=3.0, shift=-1.5)
        for level, grid in enumerate(GRIDS)
    ]
    deltas = [wave(3, 3 * 4, *grid, step=0.9 + level * 0.2, scale=0.5) for level, grid in enumerate(GRIDS)]
    return (
        [x.to(dtype).requires_grad_() for x in logits],
        [x.to(dtype).requires_grad_() for x in deltas],
    )


def as_rows(levels: list[Tensor], width: int) -> list[Tensor]:
    """``[N, A * width, H, W]`` as detectron2's ``[N, H * W * A, width]``."""
    return [level.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for level in levels]


def model(**settings: Any) -> RetinaNet:
    return compat.accelerate_retinanet(RetinaNet(K, **settings))


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


# Inference

SETTINGS = {
    "test_score_thresh": 0.5,
    "test_topk_candidates": 12,
    "max_detections_per_image": 6,
    "test_nms_thresh": 0.4,
}
DETECTIONS = [
    (
        [
            (41.67193603515625, 35.875186920166016, 59.91571807861328, 50.50404739379883),
            (-1.7407569885253906, -8.787139892578125, 35.34329605102539, 29.700637817382812),
            (39.733455657958984, -16.64431381225586, 56.837947845458984, 8.650670051574707),
            (-8.058584213256836, 15.467418670654297, 8.941272735595703, 40.55161666870117),
            (55.464324951171875, 36.16340637207031, 93.84346008300781, 64.91880798339844),
            (73.6938705444336, 52.06010437011719, 92.06705474853516, 66.70724487304688),
        ],
        (0.8175728917, 0.8175295591, 0.8174897432, 0.8173596858, 0.8172798752, 0.8170629739),
        [1, 2, 1, 2, 0, 2],
    ),
    (
        [
            (2.3097476959228516, -7.50404167175293, 48.59069061279297, 20.45660972595215),
            (8.314432144165039, 24.949241638183594, 29.828214645385742, 39.600914001464844),
            (-3.3604602813720703, 8.70492935180664, 42.98546600341797, 24.245548248291016),
            (35.6318359375, 15.971116065979004, 45.928382873535156, 40.70796585083008),
            (34.31804275512695, 8.36294174194336, 80.29277038574219, 36.30935287475586),
            (37.8618278503418, -27.80336570739746, 57.36832046508789, 25.565183639526367),
        ],
        (0.8113811016, 0.8100417256, 0.8085659146, 0.8070437312, 0.8069519997, 0.8052971959),
        [0, 0, 1, 2, 1, 2],
    ),
    (
        [
            (52.02806091308594, 16.84657096862793, 91.48243713378906, 48.85014343261719),
            (9.605205535888672, 6.181722164154053, 29.78652572631836, 21.232118606567383),
            (33.221534729003906, 29.350372314453125, 55.62516784667969, 62.61592102050781),
            (1.076277732849121, 13.357416152954102, 23.667457580566406, 46.83391571044922),
            (21.19314956665039, -8.160354614257812, 43.64152145385742, 47.572486877441406),
            (20.24905776977539, 1.0918912887573242, 59.66495895385742, 32.874908447265625),
        ],
        (0.8175716400, 0.8175352216, 0.8174815178, 0.8173722625, 0.8172647357, 0.8170824647),
        [2, 2, 2, 1, 0, 1],
    ),
]


def check_detections(found: Instances, expected: tuple[Any, Any, Any]) -> None:
    boxes, scores, labels = expected
    assert found.image_size == (64, 80)
    assert found.pred_classes.tolist() == labels
    assert found.scores.tolist() == pytest.approx(scores, rel=1e-6)  # a few units in the last place
    # exp() and the products around it in float32, of coordinates up to 100.
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor(boxes), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_forward_inference(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    logits, deltas = head_outputs()
    predictions = [[x.to(memory_format=layout) for x in levels] for levels in (logits, deltas)]
    with torch.no_grad():
        results = model(**SETTINGS).forward_inference(ImageList([(64, 80)] * 3), FEATURES, predictions)
    for found, expected in zip(results, DETECTIONS, strict=True):
        check_detections(found, expected)


def test_inference_single_image_takes_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    retinanet = model(**SETTINGS)
    logits, deltas = head_outputs()
    scores = [level[2].sigmoid() for level in as_rows(logits, K)]
    rows = [level[2] for level in as_rows(deltas, 4)]
    found = retinanet.inference_single_image(retinanet.anchor_generator(FEATURES), scores, rows, (64, 80))
    check_detections(found, DETECTIONS[2])
    assert found.pred_boxes.tensor.requires_grad
    assert found.scores.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.5, 0.81, 0.9999, 1.0])
def test_the_score_threshold_is_exact(dtype: torch.dtype, threshold: float) -> None:
    # Every score around the threshold, in steps of the type.
    at = min(max(math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else 0.0, -80.0), 80.0)
    step = torch.finfo(dtype).eps * max(abs(at), 1.0)
    logits = (at + step * torch.arange(-40, 40, dtype=torch.float64)).to(dtype).reshape(1, 1, 8, 10)
    anchors = [torch.arange(80.0)[:, None] * 100 + torch.tensor([0.0, 0.0, 9.0, 9.0])]
    (found,) = compat.retinanet_inference(
        [logits], [logits.new_zeros(1, 4, 8, 10)], anchors, num_classes=1, test_score_thresh=threshold
    )
    scores = logits.sigmoid()
    assert len(found["scores"]) == int((scores > threshold).sum())
    assert found["scores"].dtype == dtype


def test_inference_without_candidates() -> None:
    anchors = RetinaNet(K).anchor_generator(FEATURES)
    logits, deltas = head_outputs()
    results = compat.retinanet_inference(logits, deltas, anchors, num_classes=K, test_score_thresh=0.999)
    for result in results:
        assert [list(result[name].shape) for name in ("pred_boxes", "scores", "pred_classes")] == [
            [0, 4],
            [0],
            [0],
        ]
        assert result["pred_classes"].dtype == torch.int64


# Boxes, anchors


def test_pairwise_iou_of_boxes_and_tensors() -> None:
    first = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 5.0, 9.0]])
    second = torch.tensor([[0.0, 0.0, 10.0, 5.0], [5.0, 5.0, 5.0, 9.0], [20.0, 20.0, 30.0, 30.0]])
    expected = [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]  # the box without area: 0, not NaN
    assert compat.pairwise_iou(Boxes(first), Boxes(second)).tolist() == expected
    assert compat.pairwise_iou(first, second).tolist() == expected


def test_box2box_transform() -> None:
    transform = compat.Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    source, target = torch.tensor([[10.0, 20, 50, 60]]), torch.tensor([[15.0, 10, 45, 70]])
    deltas = transform.get_deltas(source, target)
    assert deltas.tolist()[0] == pytest.approx([0.0, 0.0, -1.4384102821350098, 2.0273256301879883], rel=1e-6)
    # Two classes a box; the second one's width is clamped.
    applied = transform.apply_deltas(torch.tensor([[1.0, -2, 0.5, -1, 0, 0, 100, 0]]), source)
    assert applied.tolist()[0] == pytest.approx(
        [11.89657974, 15.62538528, 56.10342026, 48.37461472, -1220.00012207, 20.0, 1280.00012207, 60.0],
        rel=1e-6,
    )
    assert transform.apply_deltas(deltas.double(), source.double()).dtype == torch.float32
    assert transform.apply_deltas(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_anchors_are_size_major_and_not_rounded() -> None:
    generator = compat.DefaultAnchorGenerator(
        sizes=[[24.0], [48.0]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[16, 32]
    )
    assert generator.num_anchors == generator.num_cell_anchors == [3, 3]
    cells = generator.generate_cell_anchors((32.0, 40.3), (0.5, 1.0, 2.0))
    assert cells[[0, 2, 4]].tolist() == [
        [-22.627416610717773, -11.313708305358887, 22.627416610717773, 11.313708305358887],
        [-11.313708305358887, -22.627416610717773, 11.313708305358887, 22.627416610717773],
        [-20.149999618530273, -20.149999618530273, 20.149999618530273, 20.149999618530273],
    ]
    first, second = generator(FEATURES)
    assert first.tensor[[0, 4, -1]].tolist() == [
        [-8.970561981201172, -0.48528099060058594, 24.970561981201172, 16.485280990600586],
        [12.0, -4.0, 36.0, 20.0],
        [63.51471710205078, 39.02943801879883, 80.48528289794922, 72.97056579589844],
    ]
    assert second.tensor[[0, 4, -1]].tolist() == [
        [-17.941123962402344, -0.9705619812011719, 49.941123962402344, 32.97056198120117],
        [24.0, -8.0, 72.0, 40.0],
        [63.02943801879883, 14.058876037597656, 96.97056579589844, 81.94112396240234],
    ]


def test_anchors_as_a_grid() -> None:
    generator = RetinaNet(K).anchor_generator
    boxes = torch.cat([level.tensor for level in generator(FEATURES)])
    grid = generator.grid(FEATURES)
    # The offset is added to the base anchors first: one rounding at another place.
    torch.testing.assert_close(grid.boxes(), boxes, rtol=1.2e-7, atol=4e-6)
    gt_boxes = [torch.tensor(GT_BOXES[0])]
    assert ops.match_anchors(grid, gt_boxes).tolist() == ops.match_anchors(boxes, gt_boxes).tolist()


def test_anchors_are_detectron2s_boxes_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(RetinaNet(K).anchor_generator(FEATURES)[0]) is compat.Boxes
    install(monkeypatch)
    assert type(RetinaNet(K).anchor_generator(FEATURES)[0]) is Boxes


def test_batched_nms_takes_any_dtypes() -> None:
    # Classes 0 and 1 overlap fully; in class 0 the second box overlaps the first by 0.9.
    boxes = torch.tensor([[-9.0, -9, 1, 1], [-9, -9, 1, 0], [-9, -9, 1, 1]])
    scores = torch.tensor([0.5, 0.6, 0.4])
    for box_dtype in (torch.float32, torch.float16, torch.float64):
        for score_dtype in (torch.float32, torch.float16, torch.float64):
            for idxs in (torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.5, 0.25])):
                kept = compat.batched_nms(boxes.to(box_dtype), scores.to(score_dtype), idxs, 0.5)
                assert kept.tolist() == [1, 2]
    assert compat.nms(boxes, scores.double(), 0.5).tolist() == [1]
    # float64 scores that are one number in float32 keep their order.
    close = torch.tensor([0.5, 0.5 + 1e-12], dtype=torch.float64)
    assert compat.nms(boxes[[0, 0]], close, 0.5).tolist() == [1]
    assert compat.batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), 0.5).tolist() == []


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
    with pytest.raises(ValueError, match="offset"):
        compat.DefaultAnchorGenerator(sizes=[32.0], aspect_ratios=[1.0], strides=[8], offset=1.0)
    with pytest.raises(ValueError, match="sizes for 3 levels, got 2"):
        compat.DefaultAnchorGenerator(sizes=[[8.0], [16.0]], aspect_ratios=[1.0], strides=[8, 16, 32])
    with pytest.raises(ValueError, match="expected 2 features, got 1"):
        RetinaNet(K).anchor_generator(FEATURES[:1])
    with pytest.raises(ValueError, match=r"batched_nms: expected boxes \[N, 4\]"):
        compat.batched_nms(torch.zeros(2, 5), torch.zeros(2), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="a box without width"):
        compat.Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).get_deltas(torch.zeros(1, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"expected deltas \[1, k \* 4\]"):
        compat.Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).apply_deltas(torch.zeros(1, 6), torch.ones(1, 4))
    logits, deltas = head_outputs()
    anchors = RetinaNet(K).anchor_generator(FEATURES)
    with pytest.raises(ValueError, match="channels of logits"):
        compat.retinanet_inference(logits, deltas, anchors, num_classes=4)
    with pytest.raises(ValueError, match=r"expected anchors \[60, 4\] of a level"):
        compat.retinanet_inference(logits, deltas, anchors[::-1], num_classes=K)


def test_a_box_without_area_is_an_error() -> None:
    anchors = RetinaNet(K).anchor_generator(FEATURES)
    with pytest.raises(ValueError, match="match_anchors"):
        compat.label_anchors(anchors, [torch.tensor([[5.0, 5, 5, 9]])], [torch.tensor([0])], K)
