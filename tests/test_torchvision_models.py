"""The models beside the real torchvision's: names, anchors, and with equal weights losses and detections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

torchvision = pytest.importorskip("torchvision", reason="torchvision is not importable here")

from torchvision.models.detection import anchor_utils, backbone_utils, image_list, retinanet, transform  # noqa: E402
from torchvision.ops.feature_pyramid_network import LastLevelP6P7  # noqa: E402
from torchvision.ops.misc import FrozenBatchNorm2d  # noqa: E402

from retinanet_fast import models  # noqa: E402
from retinanet_fast.nn import AnchorGenerator, DetectionTransform, retinanet_anchor_generator  # noqa: E402

BACKBONES = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
NUM_CLASSES = 6


def ours(name: str, **kwargs: Any) -> nn.Module:
    return getattr(models, f"retinanet_{name}")(num_classes=NUM_CLASSES, **kwargs)


def theirs(name: str, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, **kwargs: Any) -> nn.Module:
    """torchvision's RetinaNet on any ResNet; it has builders for ResNet-50 alone."""
    if name == "resnet50_fpn_v2":
        return retinanet.retinanet_resnet50_fpn_v2(
            weights=None, weights_backbone=None, num_classes=NUM_CLASSES, **kwargs
        )
    backbone = backbone_utils.resnet_fpn_backbone(
        backbone_name=name.removesuffix("_fpn"),
        weights=None,
        norm_layer=norm,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return retinanet.RetinaNet(backbone, NUM_CLASSES, **kwargs)


def pair(name: str, **kwargs: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and torchvision's in float64, the same weights in both, on images of about 64 pixels."""
    torch.manual_seed(0)
    a, b = ours(name, min_size=64, max_size=100, **kwargs), theirs(name, min_size=64, max_size=100, **kwargs)
    spread_outputs(a)
    b.load_state_dict(a.state_dict())
    return a.double(), b.double()


def spread_outputs(model: nn.Module) -> None:
    """Make the outputs differ, as those of a trained model do: the scores and boxes of a fresh one are all alike."""
    heads = model.head.classification_head, model.head.regression_head
    for module in (module for head in heads for module in head.conv.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        level = model.eval().backbone(torch.randn(1, 3, 64, 64))[0]
        for head, output, std in ((heads[0], heads[0].cls_logits, 2.0), (heads[1], heads[1].bbox_reg, 0.5)):
            output.weight *= std / head([level])[0].std()
    model.train()


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Three images of different sizes; the last has no boxes.

    They are resized by 2, 2 and 1 to a shorter side of 64: torchvision keeps these ratios in float32 even for
    float64 boxes, which leaves no rounding only where they are exact.
    """
    torch.manual_seed(1)
    images = [torch.rand(3, *size, dtype=torch.float64) for size in ((32, 48), (48, 32), (64, 64))]
    boxes = [[[5.0, 6, 35, 24], [15, 3, 45, 30]], [[3.0, 12, 25, 44]], []]
    labels = [[1, 5], [3], []]
    targets = [
        {"boxes": torch.tensor(b, dtype=torch.float64).reshape(-1, 4), "labels": torch.tensor(c).long()}
        for b, c in zip(boxes, labels, strict=True)
    ]
    return images, targets


@pytest.mark.parametrize("name", [f"{name}_fpn" for name in BACKBONES] + ["resnet50_fpn_v2"])
def test_names_shapes_and_norms_of_the_state(name: str) -> None:
    with torch.device("meta"):  # without the time to draw the weights
        a, b = ours(name), theirs(name)
    shapes = {key: (value.shape, value.dtype) for key, value in b.state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in a.state_dict().items()} == shapes
    assert _norms(a) == _norms(b)
    assert [key for key, _ in a.named_parameters()] == [key for key, _ in b.named_parameters()]


@pytest.mark.parametrize("layers", [None, 0, 1, 3, 4, 5])
@pytest.mark.parametrize("version", ["", "_v2"])
def test_frozen_parts_of_a_pretrained_backbone(
    layers: int | None, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = torchvision.models.resnet50(weights=None)
    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: classifier.state_dict())
    options = {"weights_backbone": weights, "trainable_backbone_layers": layers, "num_classes": NUM_CLASSES}
    a = getattr(models, f"retinanet_resnet50_fpn{version}")(**options)
    b = getattr(retinanet, f"retinanet_resnet50_fpn{version}")(weights=None, **options)
    assert _norms(a) == _norms(b)
    trained = {name: parameter.requires_grad for name, parameter in b.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in a.named_parameters()} == trained
    key = "backbone.body.layer1.0.bn1.weight"
    assert torch.equal(a.state_dict()[key], classifier.state_dict()["layer1.0.bn1.weight"])


def _norms(model: nn.Module) -> list[tuple[str, float]]:
    kinds = (nn.BatchNorm2d, nn.GroupNorm, FrozenBatchNorm2d, models.FrozenBatchNorm2d)
    return [(type(module).__name__, module.eps) for module in model.modules() if isinstance(module, kinds)]


def test_published_v1_weights_get_no_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    # The file of these weights has the names of before torchvision 0.13.
    b = retinanet.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    old = {_old_name(key): value for key, value in b.state_dict().items()}
    assert "head.classification_head.conv.6.bias" in old
    weights = retinanet.RetinaNet_ResNet50_FPN_Weights.COCO_V1
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: dict(old))
    a = models.retinanet_resnet50_fpn(weights=weights)
    assert {eps for kind, eps in _norms(a)} == {0.0}
    state = a.state_dict()
    for key, value in b.state_dict().items():
        if "num_batches_tracked" not in key:
            assert torch.equal(state[key], value), key


@pytest.mark.parametrize("name", ["DEFAULT", "COCO_V1", "RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1"])
def test_published_weights_by_their_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = retinanet.retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None).state_dict()
    asked = []

    def get_state_dict(member: Any, **_: Any) -> dict[str, Tensor]:
        asked.append(member)
        return state

    enum = retinanet.RetinaNet_ResNet50_FPN_V2_Weights
    monkeypatch.setattr(enum, "get_state_dict", get_state_dict)
    model = models.retinanet_resnet50_fpn_v2(weights=name)
    assert asked == [enum.COCO_V1]
    key = "head.classification_head.conv.0.0.weight"
    assert torch.equal(model.state_dict()[key], state[key])
    if "." in name:
        models.load_weights(model, name)
        assert asked == [enum.COCO_V1] * 2


@pytest.mark.parametrize("name", ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_published_backbones_by_their_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    model = ours("resnet18_fpn", weights_backbone=name)
    assert torch.equal(model.backbone.body.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("builder", "keyword", "name"),
    [
        ("resnet18_fpn", "weights", "DEFAULT"),  # torchvision has detectors on ResNet-50 alone
        ("resnet50_fpn", "weights", "RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1"),
        ("resnet50_fpn", "weights_backbone", "ResNet18_Weights.IMAGENET1K_V1"),
        ("resnet50_fpn", "weights_backbone", "IMAGENET1K_V9"),
    ],
)
def test_published_names_of_other_models(builder: str, keyword: str, name: str) -> None:
    model = "resnet50" if keyword == "weights_backbone" else f"retinanet_{builder}"
    with pytest.raises(
        ValueError, match=rf"weights '{name}': torchvision has none of this name for {model}; give"
    ):
        ours(builder, **{keyword: name})


def _old_name(key: str) -> str:
    parts = key.split(".")
    if parts[:1] == ["head"] and parts[2] == "conv":
        return ".".join([*parts[:3], str(2 * int(parts[3])), parts[-1]])
    if parts[1] == "fpn" and parts[2] in ("inner_blocks", "layer_blocks"):
        return ".".join([*parts[:4], parts[-1]])
    return key


def test_initial_weights_are_drawn_alike() -> None:
    for name in ("resnet18_fpn", "resnet50_fpn_v2"):
        a, b = ours(name).state_dict(), theirs(name).state_dict()
        for key, expected in b.items():
            if expected.numel() < 10_000:  # constants, and too few draws to compare
                if expected.dim() == 1:
                    assert torch.equal(a[key], expected), key
                continue
            # The standard deviation of n draws is known to 1 / sqrt(2 n), 0.7% here: 7 sigma.
            assert a[key].std().item() == pytest.approx(expected.std().item(), rel=0.07), key
            assert a[key].abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.35), key


@pytest.mark.parametrize(("height", "width"), [(800, 800), (800, 1088), (96, 160), (64, 32)])
def test_anchors(height: int, width: int) -> None:
    sizes = [(height, width)]
    for _ in range(7):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    features = [torch.zeros(1, 1, *size) for size in sizes[3:]]
    images = image_list.ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    (expected,) = retinanet._default_anchorgen()(images, features)
    grid = retinanet_anchor_generator()((height, width), sizes[3:])
    assert torch.equal(grid.boxes(), expected)
    odd = ((17, 33), (70, 91)), ((0.4, 0.7, 3.0),) * 2
    (expected,) = anchor_utils.AnchorGenerator(*odd)(images, features[:2])
    assert torch.equal(AnchorGenerator(*odd)((height, width), sizes[3:5]).boxes(), expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"min_size": 96, "max_size": 160},
        {"min_size": (64, 96, 130), "max_size": 140},
        {"min_size": 96, "max_size": 160, "fixed_size": (100, 80), "size_divisible": 16},
    ],
)
def test_transform(training: bool, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    images = [torch.rand(3, *size) for size in ((60, 81), (97, 70), (48, 48))]
    targets = [{"boxes": torch.rand(n, 4) * 40, "labels": torch.arange(n)} for n in (2, 1, 0)]
    a = DetectionTransform(image_mean=MEAN, image_std=STD, **options).train(training)
    b = transform.GeneralizedRCNNTransform(image_mean=MEAN, image_std=STD, **options).train(training)
    torch.manual_seed(2)
    our_batch, our_targets = a(images, targets)
    torch.manual_seed(2)
    their_batch, their_targets = b(images, targets)
    assert our_batch.image_sizes == their_batch.image_sizes
    assert torch.equal(our_batch.tensors, their_batch.tensors)
    for ours, theirs in zip(our_targets, their_targets, strict=True):
        assert torch.equal(ours["boxes"], theirs["boxes"])
        assert torch.equal(ours["labels"], theirs["labels"])


@pytest.mark.parametrize("name", ["resnet18_fpn", "resnet50_fpn", "resnet50_fpn_v2"])
def test_losses_and_gradients(name: str) -> None:
    images, targets = batch()
    a, b = pair(name)
    losses = [model(images, targets) for model in (a, b)]
    assert losses[0].keys() == losses[1].keys() == {"classification", "bbox_regression"}
    for key, expected in losses[1].items():
        assert expected > 0
        # float64, summed in another order
        torch.testing.assert_close(losses[0][key], expected, rtol=1e-9, atol=0)
    for loss in losses:
        sum(loss.values()).backward()
    gradients = {key: parameter.grad for key, parameter in b.named_parameters()}
    for key, parameter in a.named_parameters():
        # Through up to 50 layers with batch statistics of few pixels, which amplify the roundings.
        scale = gradients[key].abs().max().item()
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-6, atol=1e-7 * scale, msg=key)


@pytest.mark.parametrize("name", ["resnet18_fpn", "resnet50_fpn", "resnet50_fpn_v2"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_detections(name: str, dtype: torch.dtype) -> None:
    images, _ = batch()
    images = [image.to(dtype) for image in images]
    a, b = (model.to(dtype).eval() for model in pair(name, detections_per_img=50, topk_candidates=200))
    with torch.no_grad():
        found, expected = a(images), b(images)
    assert sum(len(image["scores"]) for image in expected) > 50
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["labels"], theirs["labels"])
        # float32: the roundings of the backbone. float64: the op reads the head's outputs as float32, 6e-8 of
        # logits below 10. Boxes are up to 100 pixels.
        tolerance = 1e-4 if dtype == torch.float32 else 1e-6
        torch.testing.assert_close(
            ours["scores"], theirs["scores"], rtol=0, atol=tolerance, check_dtype=False
        )
        torch.testing.assert_close(
            ours["boxes"], theirs["boxes"], rtol=0, atol=100 * tolerance, check_dtype=False
        )


def test_frozen_norm_equals_torchvision() -> None:
    torch.manual_seed(0)
    a, b = models.FrozenBatchNorm2d(7), FrozenBatchNorm2d(7)
    state = {key: torch.rand(7) + 0.1 for key in a.state_dict()}
    a.load_state_dict({**state, "num_batches_tracked": torch.tensor(3)})
    b.load_state_dict(state)
    x = torch.randn(2, 7, 5, 5)
    # One fused pass against a multiply and an add with a folded scale: a few roundings of values below 10.
    torch.testing.assert_close(a(x), b(x), rtol=1e-5, atol=1e-5)


def test_torchvision_parts_fit() -> None:
    """Their backbone (an ordered dict of levels) and Matcher in our RetinaNet."""
    images, targets = batch()
    backbone = theirs("resnet18_fpn").backbone
    matcher = torchvision.models.detection._utils.Matcher(0.6, 0.3, allow_low_quality_matches=False)
    a = models.RetinaNet(backbone, NUM_CLASSES, 64, 100, proposal_matcher=matcher).double()
    b = retinanet.RetinaNet(backbone, NUM_CLASSES, 64, 100, proposal_matcher=matcher).double()
    b.load_state_dict(a.state_dict())
    for key, expected in b(images, targets).items():
        torch.testing.assert_close(a(images, targets)[key], expected, rtol=1e-9, atol=0)
