"""The usual fine-tuning script of torchvision's users, with our model and torchvision's own parts in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retinanet_fast import models

try:
    from torchvision.models.detection import anchor_utils, retinanet
except ImportError:
    retinanet = None

needs_torchvision = pytest.mark.skipif(retinanet is None, reason="torchvision is not importable here")
SIZES = ((16, 20, 25), (32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406))


def tiny(**kwargs: Any) -> models.RetinaNet:
    torch.manual_seed(0)
    return models.retinanet_resnet18_fpn(**{"num_classes": 91, "min_size": 64, "max_size": 96, **kwargs})


def images() -> list[Tensor]:
    return [torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(0)), torch.full((3, 64, 64), 0.5)]


def targets() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[5.0, 5, 45, 50], [30, 10, 75, 55]])
    return [
        {"boxes": boxes, "labels": torch.tensor([1, 2])},
        {"boxes": boxes[:1], "labels": torch.tensor([2])},
    ]


@pytest.mark.parametrize("source", ["ours", pytest.param("torchvision's", marks=needs_torchvision)])
def test_the_tutorials_script(source: str) -> None:
    """https://pytorch.org/tutorials: load a detector, give it a head for one's own classes, train, evaluate."""
    parts: ModuleType = models if source == "ours" else retinanet
    model = tiny()
    in_channels = model.backbone.out_channels
    num_anchors = model.head.classification_head.num_anchors
    assert (in_channels, num_anchors, model.head.classification_head.num_classes) == (256, 9, 91)
    model.head.classification_head = parts.RetinaNetClassificationHead(
        in_channels, num_anchors, num_classes=3, norm_layer=partial(nn.GroupNorm, 32)
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.002, momentum=0.9, weight_decay=0.0005)
    history = []
    for _ in range(3):
        loss_dict = model(images(), targets())
        losses = sum(loss for loss in loss_dict.values())
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()
        history.append(losses.item())
    assert history[-1] < history[0]
    model.eval()
    model.score_thresh = 0.0
    with torch.no_grad():
        outputs = model(images())
    assert all({"boxes", "labels", "scores"} == output.keys() for output in outputs)
    assert all(len(output["labels"]) > 0 and output["labels"].max() < 3 for output in outputs)
    state = model.state_dict()
    assert state["head.classification_head.cls_logits.weight"].shape == (27, 256, 3, 3)
    assert state["head.classification_head.conv.3.1.weight"].shape == (256,)  # the group norm


@needs_torchvision
def test_heads_have_torchvisions_signatures_names_and_start() -> None:
    norms: list[Callable[[int], nn.Module] | None] = [None, partial(nn.GroupNorm, 8)]
    for norm in norms:
        for name, arguments in (
            ("RetinaNetClassificationHead", (16, 3, 5, 0.2, norm)),
            ("RetinaNetRegressionHead", (16, 3, norm)),
        ):
            a, b = getattr(models, name)(*arguments), getattr(retinanet, name)(*arguments)
            state = b.state_dict()
            assert list(a.state_dict()) == list(state)
            for key, value in a.state_dict().items():
                assert value.shape == state[key].shape
                if key.endswith("bias"):  # constants; the weights are drawn
                    assert torch.equal(value, state[key]), key
    assert vars(a).keys() >= {"num_anchors"}


# --- torchvision's parts in our RetinaNet, beside the same parts in theirs ---


def pair(**options: Any) -> tuple[nn.Module, nn.Module]:
    """Our RetinaNet and torchvision's, on one backbone, in float64; ``options`` make parts for each of them."""
    torch.manual_seed(0)
    backbone = tiny().backbone
    made = [{key: make() for key, make in options.items()} for _ in range(2)]
    if "head" in options:
        made[1]["head"].load_state_dict(made[0]["head"].state_dict())
    a = models.RetinaNet(backbone, 4, 64, 96, detections_per_img=40, **made[0])
    b = retinanet.RetinaNet(DictOfLevels(backbone), 4, 64, 96, detections_per_img=40, **made[1])
    b.head.load_state_dict(a.head.state_dict())
    return a.double(), b.double()


class DictOfLevels(nn.Module):
    """torchvision's RetinaNet takes levels in a dict alone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = backbone.out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {str(index): level for index, level in enumerate(self.backbone(x))}


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    """Losses, gradients of the head, and detections."""
    batch = [image.double() for image in images()]
    pairs = [{**target, "boxes": target["boxes"].double()} for target in targets()]
    gradients = []
    for model in (a, b):
        losses = model.train()(batch, pairs)
        gradients.append(torch.autograd.grad(sum(losses.values()), list(model.head.parameters())))
        gradients[-1] = (*losses.values(), *gradients[-1])
    for ours, theirs in zip(*gradients, strict=True):
        # float64, summed in another order; gradients of a small share of a loss of order 1
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    for model in (a, b):
        model.eval().score_thresh = 0.0
    with torch.no_grad():
        found, expected = a(batch), b(batch)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours["scores"]) == len(theirs["scores"]) == 40
        assert torch.equal(ours["labels"], theirs["labels"])
        # The op reads logits and deltas as float32, 6e-8 of values below 10; boxes are up to 100 pixels.
        torch.testing.assert_close(ours["scores"].double(), theirs["scores"], rtol=0, atol=1e-6)
        torch.testing.assert_close(ours["boxes"].double(), theirs["boxes"], rtol=0, atol=1e-4)


def their_anchors() -> nn.Module:
    return anchor_utils.AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 5)


def their_head() -> nn.Module:
    torch.manual_seed(1)
    head = retinanet.RetinaNetHead(256, 9, 4)
    for module in (head.classification_head.cls_logits, head.regression_head.bbox_reg):
        nn.init.normal_(module.weight, std=0.3)  # scores and boxes that differ
    return head


@needs_torchvision
def test_their_anchor_generator() -> None:
    a, b = pair(anchor_generator=their_anchors)
    assert_equal(a, b)
    assert {anchors.dtype for anchors in a.anchor_generator.cell_anchors} == {torch.float32}


@needs_torchvision
def test_their_head() -> None:
    assert_equal(*pair(anchor_generator=their_anchors, head=their_head))
    a, b = pair(head=their_head)
    a.head.regression_head, b.head.regression_head = (
        retinanet.RetinaNetRegressionHead(256, 9).double() for _ in range(2)
    )
    b.head.load_state_dict(a.head.state_dict())
    assert_equal(a, b)


@needs_torchvision
def test_their_parts_assigned_later() -> None:
    a, b = pair(anchor_generator=their_anchors, head=their_head)
    ours = models.RetinaNet(a.backbone, 91, 64, 96, detections_per_img=40).double()
    ours.head.classification_head = a.head.classification_head
    ours.head.regression_head = a.head.regression_head
    ours.anchor_generator = a.anchor_generator
    assert_equal(ours, b)


@needs_torchvision
@pytest.mark.parametrize("loss", ["giou", "smooth_l1"])
def test_the_box_loss_of_their_regression_head(loss: str) -> None:
    def head() -> nn.Module:
        made = their_head()
        made.regression_head._loss_type = loss  # as torchvision's v2 builder does
        return made

    assert_equal(*pair(head=head))


@needs_torchvision
def test_a_subclass_that_lays_its_anchors_out_itself() -> None:
    class Shifted(anchor_utils.AnchorGenerator):
        def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
            assert len(image_list.image_sizes) == len(image_list.tensors)
            return [anchors + 3 for anchors in super().forward(image_list, feature_maps)]

    class PerImage(anchor_utils.AnchorGenerator):
        def forward(self, image_list: Any, feature_maps: list[Tensor]) -> list[Tensor]:
            return [
                anchors + index for index, anchors in enumerate(super().forward(image_list, feature_maps))
            ]

    assert_equal(*pair(anchor_generator=lambda: Shifted(SIZES, ((0.5, 1.0, 2.0),) * 5), head=their_head))
    model = tiny(anchor_generator=PerImage(SIZES, ((0.5, 1.0, 2.0),) * 5))
    with pytest.raises(ValueError, match="expected the same anchors for all images"):
        model(images(), targets())


def test_a_head_with_rows_that_are_no_levels() -> None:
    class Head(nn.Module):
        def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
            return {"cls_logits": torch.zeros(2, 1000, 4), "bbox_regression": torch.zeros(2, 1000, 4)}

    # 64 x 96 pixels: 96 + 24 + 6 + 2 + 1 cells
    with pytest.raises(ValueError, match=r"a multiple of 129 anchors, .* got \[2, 1000, 4\]"):
        tiny(head=Head())(images(), targets())


@needs_torchvision
def test_parts_that_do_not_fit() -> None:
    uneven = anchor_utils.AnchorGenerator(SIZES, ((0.5, 1.0, 2.0),) * 4 + ((1.0,),))
    with pytest.raises(ValueError, match=r"as many anchors per cell on each level, got \[9, 9, 9, 9, 3\]"):
        tiny(anchor_generator=uneven)
    with pytest.raises(
        ValueError, match=r"expected 6 anchors per cell, as head\.classification_head has, got 9"
    ):
        tiny(head=retinanet.RetinaNetHead(256, 6, 4))
    head = their_head()
    head.regression_head._loss_type = "ciou"
    with pytest.raises(ValueError, match="expected box_loss l1, smooth_l1 or giou, got ciou"):
        tiny(head=head)
    with pytest.raises(ValueError, match="AnchorGenerator: expected 4 levels, got 5"):
        tiny(anchor_generator=anchor_utils.AnchorGenerator(SIZES[:4], ((0.5, 1.0, 2.0),) * 4))(
            images(), targets()
        )
