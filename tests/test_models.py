"""The models by themselves: they build, train a step, detect, and refuse bad input by name."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retinanet_fast import models, reference
from retinanet_fast.nn import AnchorGenerator

V1 = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]
BUILDERS = [f"retinanet_{backbone}_fpn" for backbone in V1] + ["retinanet_resnet50_fpn_v2"]
# As published with torchvision's weights; v1's count leaves out its backbone's 53,120 frozen batch norm parameters.
PARAMETERS = {"retinanet_resnet50_fpn": 34_014_999 + 53_120, "retinanet_resnet50_fpn_v2": 38_198_935}


def build(name: str, **kwargs: Any) -> models.RetinaNet:
    return getattr(models, name)(**kwargs)


def tiny(**kwargs: Any) -> models.RetinaNet:
    torch.manual_seed(0)
    return models.retinanet_resnet18_fpn(**{"num_classes": 4, "min_size": 64, "max_size": 96, **kwargs})


def images() -> list[Tensor]:
    return [torch.rand(3, 60, 80, generator=torch.Generator().manual_seed(0)), torch.full((3, 64, 64), 0.5)]


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[5.0, 5, 45, 50], [30, 10, 75, 55]])
    return [
        {"boxes": boxes, "labels": torch.tensor([1, 3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]


# --- every builder ---


@pytest.mark.parametrize("name", BUILDERS)
def test_signature_is_torchvisions(name: str) -> None:
    parameters = inspect.signature(getattr(models, name)).parameters
    assert getattr(models, name).__name__ == name
    defaults = {key: parameter.default for key, parameter in parameters.items() if key != "kwargs"}
    assert defaults == {
        "weights": None,
        "progress": True,
        "num_classes": None,
        "weights_backbone": None,
        "trainable_backbone_layers": None,
        "min_size": 800,
        "max_size": 1333,
    }


@pytest.mark.parametrize("name", BUILDERS)
def test_structure(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    state = model.state_dict()
    assert state["head.classification_head.cls_logits.weight"].shape == (9 * 91, 256, 3, 3)
    assert state["head.regression_head.bbox_reg.bias"].shape == (36,)
    assert {key.split(".")[0] for key in state} == {"backbone", "head"}
    for key in ("body.conv1.weight", "body.layer4.0.downsample.1.running_var", "fpn.inner_blocks.2.0.bias"):
        assert f"backbone.{key}" in state
    assert state["backbone.fpn.extra_blocks.p6.weight"].shape[1] == (2048 if name.endswith("v2") else 256)
    assert ("head.regression_head.conv.3.1.weight" in state) == name.endswith("v2")
    assert all(parameter.requires_grad for parameter in model.parameters())
    if name in PARAMETERS:
        assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    "name",
    [
        "retinanet_resnet18_fpn",
        "retinanet_resnet50_fpn_v2",
        "retinanet_resnet101_fpn",
        "retinanet_resnext101_32x8d_fpn",
    ],
)
def test_trains_a_step_and_detects(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, num_classes=4, min_size=64, max_size=96, score_thresh=0.0, detections_per_img=7)
    losses = model(images(), targets())
    assert losses.keys() == {"classification", "bbox_regression"}
    assert all(loss.dtype == torch.float32 and loss > 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters()
    )

    model.eval()
    with torch.no_grad():
        detections = model(images())
    for image, found in zip(images(), detections, strict=True):
        assert found["boxes"].shape == (7, 4)
        assert found["scores"].shape == found["labels"].shape == (7,)
        assert found["labels"].dtype == torch.int64
        assert (found["labels"] >= 0).all()
        assert (found["labels"] < 4).all()
        assert (found["scores"].diff() <= 0).all()
        assert (found["boxes"] >= 0).all()
        height, width = image.shape[-2:]
        assert (found["boxes"] <= torch.tensor([width, height, width, height]) + 1e-4).all()


# --- what the model does ---


def test_steps_against_the_gradient_lower_both_losses() -> None:
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    first = model(images(), targets())
    for _ in range(3):
        optimizer.zero_grad()
        sum(model(images(), targets()).values()).backward()
        optimizer.step()
    last = model(images(), targets())
    assert all(last[key] < first[key] for key in first)


class OneAnchorHead(nn.Module):
    """Background everywhere but at one anchor: image 0, level 1, y 1, x 2, the square of size 64, class 3."""

    def forward(self, features: list[Tensor]) -> dict[str, list[Tensor]]:
        sizes = [level.shape[-2:] for level in features]
        logits = [torch.full((2, 9 * 4, *size), -9.0) for size in sizes]
        logits[1][0, 3 * 4 + 3, 1, 2] = 4.0
        return {"cls_logits": logits, "bbox_regression": [torch.zeros(2, 9 * 4, *size) for size in sizes]}


def test_detections_are_in_the_pixels_of_the_original_image() -> None:
    model = tiny(head=OneAnchorHead()).eval()
    with torch.no_grad():
        found, nothing = model([torch.rand(3, 128, 160), torch.rand(3, 64, 64)])
    # Image 0 is halved to 64 x 80. The anchor at (32, 16) of stride 16 spans 0 to 64 and -16 to 48, clipped at 0.
    assert found["boxes"].tolist() == [[0, 0, 128, 96]]
    assert found["labels"].tolist() == [3]
    torch.testing.assert_close(found["scores"], torch.tensor([4.0]).sigmoid())
    assert [value.shape[0] for value in nothing.values()] == [0, 0, 0]


def test_fresh_scores_are_the_prior() -> None:
    model = tiny(score_thresh=0.0).eval()
    with torch.no_grad():
        scores = model(images())[0]["scores"]
    # sigmoid(-log(99)); the freshly drawn convolutions before it add little
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01), rtol=0.5, atol=0)
    bias = model.head.classification_head.cls_logits.bias
    torch.testing.assert_close(bias, torch.full_like(bias, -math.log(99)))


def test_head_outputs_stay_lists_of_levels() -> None:
    model = tiny()
    levels = model.backbone(torch.rand(2, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (256, 8, 12),
        (256, 4, 6),
        (256, 2, 3),
        (256, 1, 2),
        (256, 1, 1),
    ]
    outputs = model.head(levels)
    assert [x.shape[1] for x in outputs["cls_logits"]] == [9 * 4] * 5
    assert [tuple(x.shape[2:]) for x in outputs["bbox_regression"]] == [tuple(x.shape[2:]) for x in levels]


def test_losses_do_not_depend_on_the_layout() -> None:
    model = tiny()
    plain = model(images(), targets())
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for key, loss in last(images(), targets()).items():
        # Convolutions of the two layouts sum in other orders, through 20 layers of batch norm.
        torch.testing.assert_close(loss, plain[key], rtol=1e-3, atol=1e-5)


def test_trains_and_detects_under_autocast() -> None:
    model = tiny(score_thresh=0.005)
    plain = model(images(), targets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images(), targets())
        sum(losses.values()).backward()
        found = model.eval()(images())[0]
    assert model.head.regression_head.bbox_reg.weight.grad.isfinite().all()
    assert found["boxes"].dtype == torch.float32
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain[key], rtol=0.1, atol=0)  # bfloat16 has 3 digits per layer


def test_compiled_model_gives_the_same_losses() -> None:
    model = tiny().eval()  # batch norm without batch statistics, so that both calls see the same network
    batch = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    boxes = [target["boxes"].clamp(max=64) for target in targets()]

    def losses(batch: Tensor) -> dict[str, Tensor]:
        levels = model.backbone(batch)
        grid = model.anchor_generator(batch.shape[-2:], [level.shape[-2:] for level in levels])
        labels = [target["labels"] for target in targets()]
        pairs = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]
        return model.compute_loss(pairs, model.head(levels), grid)

    compiled = torch.compile(losses, fullgraph=True, backend="aot_eager")(batch)
    for key, loss in losses(batch).items():
        torch.testing.assert_close(
            compiled[key], loss, rtol=1e-5, atol=0
        )  # the same kernels, decomposed norms


def test_custom_anchors_set_the_head() -> None:
    anchors = AnchorGenerator([(16,), (32,), (64,), (128,), (256,)], (0.5, 1.0))
    for builder in (models.retinanet_resnet18_fpn, models.retinanet_resnet50_fpn_v2):
        with torch.device("meta"):
            model = builder(num_classes=3, anchor_generator=anchors)
        assert model.head.classification_head.cls_logits.out_channels == 6
        assert model.head.regression_head.bbox_reg.out_channels == 8


# --- options ---


def test_trainable_layers() -> None:
    with pytest.warns(UserWarning, match="trainable_backbone_layers=2 has no effect"):
        model = tiny(trainable_backbone_layers=2)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"in \[0, 5\], got 6"):
        tiny(trainable_backbone_layers=6)


def test_a_loss_function_of_ones_own() -> None:
    """It is called as the op is, so that its eager twin fits too."""
    twin, usual = tiny(loss_function=reference.retinanet_loss, gamma=1.5), tiny(gamma=1.5)
    expected = usual(images(), targets())
    for key, loss in twin(images(), targets()).items():
        torch.testing.assert_close(loss, expected[key], rtol=1e-5, atol=1e-6)  # sums in another order
    seen: dict[str, Any] = {}

    def only_count(
        cls_logits: Any, deltas: Any, anchors: Any, *boxes: Any, **options: Any
    ) -> dict[str, Tensor]:
        seen.update(options)
        return {"mean": cls_logits[0].mean() + deltas[0].mean()}

    usual.loss_function = only_count
    assert usual(images(), targets()).keys() == {"mean"}
    assert seen == {"gt_counts": None, **usual.loss_options}


# --- bad input ---


def with_boxes(boxes: Tensor) -> Callable[[], list[dict[str, Tensor]]]:
    return lambda: [targets()[0], {"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)}]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: None, "expected targets in training mode, got None"),
        (lambda: targets()[:1], "expected 2 targets, one per image, got 1"),
        (
            lambda: [targets()[0], {"boxes": torch.zeros(0, 4)}],
            r"boxes and labels in target 1, got \['boxes'\]",
        ),
        (with_boxes(torch.zeros(3, 5)), r"expected boxes \[N, 4\] in target 1, got \[3, 5\]"),
        (
            lambda: [targets()[0], {**targets()[1], "boxes": [1.0]}],
            r"expected boxes \[N, 4\] in target 1, got list",
        ),
        (
            lambda: [targets()[0], {**targets()[1], "labels": torch.ones(2)}],
            r"labels \[0\] in target 1, got \[2\]",
        ),
        (with_boxes(torch.tensor([[1.0, 1, 2, 2], [5, 5, 5, 9]])), "image 1, row 1"),
        (with_boxes(torch.tensor([[1.0, 1, math.nan, 2]])), "image 1, row 0"),
    ],
)
def test_bad_targets_are_named(bad: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny()(images(), bad())


def test_backbone_without_out_channels() -> None:
    with pytest.raises(ValueError, match=r"backbone\.out_channels"):
        models.RetinaNet(nn.Identity(), num_classes=2)
