"""detectron2's inference, boxes and anchors: values of its own code at commit 02b5c4e295e990042a714712c21dc79b731e8833.

The literal values below were computed by that code on the inputs that the stand-in makes.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from detectron2_stand_in import (
    FEATURES,
    Boxes,
    ImageList,
    Instances,
    K,
    RetinaNet,
    as_rows,
    head_outputs,
    install,
    model,
)

from retinanet_fast import ops
from retinanet_fast.compat import detectron2 as compat

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
    gt_boxes = [torch.tensor([(10.0, 12.0, 34.0, 36.0), (30.0, 8.0, 78.0, 58.0)])]
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


def test_errors_say_what_was_expected() -> None:
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
