"""Our pyramid on other networks: one's own, timm's, torchvision's; the latter also by a recipe's arch."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from retinanet_fast import models
from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.backbones import TORCHVISION_LEVELS, network_of_another_library
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.prediction.predict import restore_model
from retinanet_fast.engine.recipe import Recipe

try:
    import timm
except ImportError:
    timm = None
try:
    import torchvision
    from torchvision.models.feature_extraction import create_feature_extractor
except ImportError:
    torchvision = None

needs_timm = pytest.mark.skipif(timm is None, reason="timm is not importable here")
needs_torchvision = pytest.mark.skipif(torchvision is None, reason="torchvision is not importable here")


class Strided(nn.Module):
    """Convolutions of the given strides; what it returns is made of all but the first."""

    def __init__(self, strides: tuple[int, ...] = (4, 2, 2, 2), as_kind: Any = list) -> None:
        super().__init__()
        convs = [nn.Conv2d(3 * 2**i, 6 * 2**i, 3, stride, padding=1) for i, stride in enumerate(strides)]
        self.convs = nn.ModuleList(convs)
        self.norm = nn.BatchNorm2d(6)
        self.as_kind = as_kind

    def forward(self, x: Tensor) -> Any:
        levels = []
        for index, conv in enumerate(self.convs):
            x = self.norm(conv(x)) if index == 0 else conv(x).relu()
            levels.append(x)
        return self.as_kind(levels[1:])


def as_dict(levels: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(("c3", "c4", "c5"), levels, strict=False))


def train_and_detect(model: nn.Module) -> None:
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 64)]
    target = {"boxes": torch.tensor([[5.0, 5, 45, 50]]), "labels": torch.tensor([1])}
    losses = model.train()(images, [target, target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    model.eval()
    with torch.no_grad():
        found = model(images)
    assert all(image["boxes"].shape[1] == 4 for image in found)


@pytest.mark.parametrize("kind", [list, tuple, as_dict])
def test_a_network_of_ones_own(kind: Any) -> None:
    body = Strided(as_kind=kind)
    backbone = models.backbone_with_fpn(body, (12, 24, 48), 32)
    assert backbone.out_channels == 32
    assert body.training  # the trial in evaluation mode has left nothing behind
    assert body.norm.num_batches_tracked == 0
    levels = backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (32, 8, 12),
        (32, 4, 6),
        (32, 2, 3),
        (32, 1, 2),
        (32, 1, 1),
    ]
    train_and_detect(models.RetinaNet(backbone, 3, 64, 96))


def test_p6_from_c5() -> None:
    backbone = models.backbone_with_fpn(Strided(), out_channels=48, p6_from_c5=True)  # as many as C5 has
    images = torch.rand(1, 3, 64, 64)
    c5 = backbone.body(images)[-1]
    torch.testing.assert_close(backbone(images)[3], backbone.fpn.extra_blocks.p6(c5))
    from_p5 = models.backbone_with_fpn(Strided(), out_channels=48)
    levels = from_p5(images)
    torch.testing.assert_close(levels[3], from_p5.fpn.extra_blocks.p6(levels[2]))


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize(
    ("body", "channels", "message"),
    [
        (Strided(), (12, 24, 96), r"the body to return \[12, 24, 96\] channels, got \[12, 24, 48\]"),
        (Strided((2, 2, 2, 2, 2)), None, r"expected C3, C4 and C5, got 4 levels; for a timm model"),
        (Strided((2, 2, 2, 2)), None, r"C3 \[B, C, 8, 8\] for an image of 64 .* got \[1, 12, 16, 16\]"),
        (Returns([torch.ones(1, 8, 8, 5)] * 3), None, r"got \[1, 8, 8, 5\]"),  # channels last, as timm's Swin
        (Returns(torch.ones(1, 8, 8, 8)), None, "a list or a dict of levels, got a Tensor"),
        (Returns(AssertionError("Input size (64*64) doesn't match")), None, r"64 pixels: Input size \(64"),
    ],
)
def test_networks_that_do_not_fit(body: nn.Module, channels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"backbone_with_fpn: .*{message}"):
        models.backbone_with_fpn(body, channels)


@needs_timm
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_timms_networks(name: str) -> None:
    strides = timm.create_model(name, features_only=True).feature_info.reduction()
    levels = [strides.index(stride) for stride in (8, 16, 32)]
    body = timm.create_model(name, features_only=True, out_indices=levels)
    backbone = models.backbone_with_fpn(body, body.feature_info.channels(), 32)
    train_and_detect(models.RetinaNet(backbone, 3, 64, 96))


@needs_torchvision
def test_torchvisions_networks() -> None:
    nodes = {"trunk_output.block2": "c3", "trunk_output.block3": "c4", "trunk_output.block4": "c5"}
    body = create_feature_extractor(torchvision.models.regnet_y_400mf(weights=None), nodes)
    train_and_detect(models.RetinaNet(models.backbone_with_fpn(body, (104, 208, 440), 32), 3, 64, 96))
    getter = torchvision.models._utils.IntermediateLayerGetter(
        torchvision.models.resnet18(weights=None), {"layer2": "0", "layer3": "1", "layer4": "2"}
    )
    # torchvision's names, as its resnet_fpn_backbone has them
    backbone = models.backbone_with_fpn(getter)
    expected = models.retinanet_resnet18_fpn(num_classes=3).backbone.state_dict()
    assert {k: v.shape for k, v in backbone.state_dict().items()} == {k: v.shape for k, v in expected.items()}


# --- by a recipe ---

SMALL = Recipe(arch="timm/resnet18", fpn_channels=32, min_size=[64], max_size=64, identity_start=True)


@needs_timm
@pytest.mark.parametrize("arch", ["timm/resnet18", "timm/mobilenetv3_small_050", "timm/convnext_atto"])
def test_a_recipe_with_a_network_of_timms(arch: str) -> None:
    train_and_detect(build_model(SMALL.replace(arch=arch), 3))


@needs_torchvision
@pytest.mark.parametrize("arch", ["torchvision/mobilenet_v3_small", "torchvision/regnet_y_400mf"])
def test_a_recipe_with_a_network_of_torchvisions(arch: str) -> None:
    train_and_detect(build_model(SMALL.replace(arch=arch), 3))


BATCH_NORMS = {"sync_batch": "SyncBatchNorm", "frozen_batch": "FrozenBatchNorm"}


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize(
    "arch",
    [
        pytest.param("timm/resnet18", marks=needs_timm),
        pytest.param("timm/mobilenetv3_small_050", marks=needs_timm),  # whose norms have activations in them
        pytest.param("torchvision/mobilenet_v3_small", marks=needs_torchvision),
    ],
)
def test_the_norm_of_another_librarys_network_is_the_recipes(arch: str, norm: str) -> None:
    """In evaluation the three batch norms compute the same."""
    torch.manual_seed(0)
    plain = build_model(SMALL.replace(arch=arch), 3).eval()
    model = build_model(SMALL.replace(arch=arch, norm=norm, init="weights.pth"), 3)
    names = {type(module).__name__ for module in model.backbone.modules()}
    norms = [name for name in names if "BatchNorm" in name]
    assert norms
    assert all(name.startswith(BATCH_NORMS[norm]) for name in norms)
    train_and_detect(model)
    model.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 64, 64)
    for found, expected in zip(model.eval().backbone(images), plain.backbone(images), strict=True):
        torch.testing.assert_close(found, expected)


@needs_timm
def test_a_network_without_batch_norm_cannot_be_given_one() -> None:
    with pytest.raises(InputError, match="norm batch: arch timm/convnext_atto has no batch norm: leave norm"):
        build_model(SMALL.replace(arch="timm/convnext_atto", norm="batch"), 3)


@needs_torchvision
@pytest.mark.parametrize("nodes", TORCHVISION_LEVELS.items(), ids=lambda nodes: nodes[1][0])
def test_the_levels_of_each_of_torchvisions_families(nodes: tuple[str, tuple[str, ...]]) -> None:
    """``backbone_with_fpn`` checks the strides; the smallest name of a family stands for it."""
    kind, _ = nodes
    name = min(
        (n for n in torchvision.models.list_models() if re.fullmatch(kind, n)), key=lambda n: (len(n), n)
    )
    body = network_of_another_library(f"torchvision/{name}")
    assert body is not None
    assert models.backbone_with_fpn(body, out_channels=8).out_channels == 8


@needs_torchvision
def test_networks_that_torchvision_has_not() -> None:
    for name in ("vit_b_16", "resnet51"):
        with pytest.raises(
            InputError, match=f"arch torchvision/{name}: expected one of torchvision's ResNets"
        ):
            build_model(SMALL.replace(arch=f"torchvision/{name}"), 3)


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(InputError, match=r"torchvision is not installed: pip install torchvision$"):
        build_model(SMALL.replace(arch="torchvision/resnet18"), 3)


@pytest.mark.parametrize(
    "arch",
    [
        pytest.param("timm/resnet18", marks=needs_timm),
        pytest.param("torchvision/shufflenet_v2_x0_5", marks=needs_torchvision),
    ],
)
def test_a_checkpoint_of_a_network_of_another_library(arch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = SMALL.replace(arch=arch)
    model = build_model(recipe, 3).eval()
    categories = [Category(1, "a"), Category(2, "b")]
    path = tmp_path / checkpoints.LAST
    checkpoints.Checkpoint(model.state_dict(), recipe, categories, epoch=1).save(path)
    restored = restore_model(checkpoints.load(path), path, torch.device("cpu"))
    images = torch.rand(1, 3, 64, 64)
    for a, b in zip(model.backbone(images), restored.backbone(images), strict=True):
        torch.testing.assert_close(a, b)  # the restored model is channels_last: sums in another order


@needs_timm
def test_timms_own_weights_start_a_run(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    state = timm.create_model("resnet18").state_dict()  # with a classifier
    torch.save(state, path)
    model = build_model(SMALL.replace(init=str(path)), 3)
    said = checkpoints.start_from(model, str(path))
    assert "2 not used (fc.weight, fc.bias)" in said
    assert torch.equal(model.backbone.body.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


@needs_timm
def test_networks_that_timm_has_not() -> None:
    with pytest.raises(InputError, match=r"arch timm/nothing: .*Unknown model \(nothing\)"):
        build_model(SMALL.replace(arch="timm/nothing"), 3)
    with pytest.raises(InputError, match=r"arch timm/vit_tiny_patch16_224: timm has no levels of strides 8"):
        build_model(SMALL.replace(arch="timm/vit_tiny_patch16_224"), 3)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"arch timm/resnet18: timm is not installed: pip install timm$"):
        build_model(SMALL, 3)
