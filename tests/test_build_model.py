"""Models from recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.build_model import build_model, choose_device
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.norms import check_norm, norm_of
from retinanet_fast.engine.prediction.predict import restore_model
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models import FrozenBatchNorm2d, retinanet_resnet18_fpn, retinanet_resnet50_fpn_v2
from retinanet_fast.models.weights import settings_of

SMALL = Recipe(arch="resnet18", fpn_channels=32, min_size=[64], max_size=64)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_model_is_the_builders() -> None:
    """At its usual width a recipe's model takes the state of torchvision's counterpart."""
    ours = build_model(Recipe(arch="resnet18"), 4).state_dict()
    expected = retinanet_resnet18_fpn(num_classes=4).state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in expected.items()}


@pytest.mark.parametrize("name", ["coco", "r101", "x101_32x8d"])
def test_the_papers_recipes_build(name: str) -> None:
    with torch.device("meta"):
        least = {"coco": 30e6, "r101": 50e6, "x101_32x8d": 90e6}
        assert parameters(build_model(recipes.load(name), 81)) > least[name]


def test_v2_is_torchvisions_v2() -> None:
    with torch.device("meta"):
        model = build_model(Recipe(arch="resnet50_v2"), 4)
        expected = retinanet_resnet50_fpn_v2(num_classes=4)
    assert str(model) == str(expected)
    assert model.loss_options == expected.loss_options


def test_v2_takes_a_recipes_options() -> None:
    v2 = Recipe(arch="resnet50_v2", fpn_channels=32, identity_start=True, init="w.pth", trainable_layers=1)
    model = build_model(v2, 4)
    assert model.backbone.out_channels == 32
    assert model.head.classification_head.conv[0][1].num_groups == 4
    body = model.backbone.body
    assert [
        name for name in ("layer3", "layer4") if body.get_submodule(name)[0].conv1.weight.requires_grad
    ] == ["layer4"]
    assert not body.layer1[0].bn3.weight.any()
    with pytest.raises(ValueError, match="fpn_channels: expected a multiple of 8"):
        v2.replace(fpn_channels=20)


def test_what_a_recipe_sets_reaches_the_model() -> None:
    model = build_model(SMALL.replace(min_size=[48, 64], score_thresh=0.2, detections_per_img=7), 4)
    assert model.transform.min_size == (48, 64)
    assert model.transform.max_size == 64
    assert (model.score_thresh, model.detections_per_img) == (0.2, 7)
    assert model.anchor_generator.sizes[0] == (32, 40, 50)


def test_the_loss_and_matcher_are_the_recipes() -> None:
    values = {"alpha": 0.5, "gamma": 1.5, "box_loss": "smooth_l1", "smooth_l1_beta": 0.2}
    matcher = {"fg_iou_thresh": 0.6, "bg_iou_thresh": 0.3, "allow_low_quality_matches": False}
    for arch in ("resnet18", "resnet50_v2"):
        with torch.device("meta"):
            model = build_model(SMALL.replace(arch=arch, **values, **matcher), 4)
        assert model.loss_options == {
            **values,
            "high_threshold": 0.6,
            "low_threshold": 0.3,
            "allow_low_quality_matches": False,
        }


def test_the_transform_is_the_recipes() -> None:
    recipe = SMALL.replace(image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 2.0, 4.0], size_divisible=48)
    batch, _ = build_model(recipe, 4).transform([torch.ones(3, 64, 64)])
    assert batch.tensors.shape == (1, 3, 96, 96)
    torch.testing.assert_close(batch.tensors[0, :, 0, 0], torch.tensor([0.9, 0.4, 0.175]))


NORMS = {
    "batch": nn.BatchNorm2d,
    "sync_batch": nn.SyncBatchNorm,
    "frozen_batch": FrozenBatchNorm2d,
    "group": nn.GroupNorm,
}


def norms_of(model: nn.Module) -> set[type]:
    return {type(module) for module in model.backbone.modules() if "Norm" in type(module).__name__}


@pytest.mark.parametrize("arch", ["resnet18", "resnet50_v2", "resnext50_32x4d"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_is_the_recipes(arch: str, norm: str) -> None:
    with torch.device("meta"):
        model = build_model(SMALL.replace(arch=arch, norm=norm, init="weights.pth"), 4)
    assert norms_of(model) == {NORMS[norm]}


@pytest.mark.parametrize(
    ("values", "norm"),
    [
        ({}, "batch"),
        ({"init": "weights.pth"}, "frozen_batch"),
        ({"init": "weights.pth", "arch": "resnet50_v2"}, "batch"),
        ({"init": "weights.pth", "arch": "timm/resnet18"}, "batch"),
    ],
)
def test_the_norm_that_auto_chooses(values: dict[str, Any], norm: str) -> None:
    assert norm_of(SMALL.replace(**values)) == norm


@pytest.mark.parametrize("norm", ["sync_batch", "group"])
def test_a_step_with_each_norm(norm: str) -> None:
    """Sync batch norm of one process, without a process group, computes as batch norm does."""
    torch.manual_seed(0)
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    target = {"boxes": torch.tensor([[5.0, 5, 45, 50]]), "labels": torch.tensor([1])}
    model = build_model(SMALL.replace(norm=norm), 4)
    losses = model(images, [target] * 2)
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    if norm == "sync_batch":
        plain = build_model(SMALL, 4)
        plain.load_state_dict(model.state_dict())
        assert plain(images, [target] * 2) == losses


@pytest.mark.parametrize("norm", NORMS)
def test_a_checkpoint_with_each_norm(norm: str, tmp_path: Path) -> None:
    recipe = SMALL.replace(norm=norm, init="weights.pth")
    torch.manual_seed(0)
    model = build_model(recipe, 2).eval()
    path = tmp_path / checkpoints.LAST
    state = checkpoints.Checkpoint(
        model.state_dict(), recipe, [Category(1, "a")], epoch=1, settings=settings_of(model)
    )
    state.save(path)
    restored = restore_model(checkpoints.load(path), path, torch.device("cpu"))
    images = torch.rand(1, 3, 64, 64)
    for found, expected in zip(restored.backbone(images), model.backbone(images), strict=True):
        torch.testing.assert_close(
            found, expected
        )  # the restored model is channels_last: sums in another order


def test_sync_batch_norm_of_several_processes_needs_gpus() -> None:
    recipe, cpu = SMALL.replace(norm="sync_batch"), torch.device("cpu")
    with pytest.raises(InputError, match="norm sync_batch: expected GPUs, got 2 processes on the CPU"):
        check_norm(recipe, cpu, world_size=2)
    check_norm(recipe, cpu, world_size=1)
    check_norm(recipe, torch.device("cuda"), world_size=2)
    check_norm(SMALL, cpu, world_size=2)


def test_v2s_head_can_be_without_norm() -> None:
    with torch.device("meta"):
        head = build_model(SMALL.replace(arch="resnet50_v2", head_norm="none"), 4).head
    assert not any(isinstance(module, nn.GroupNorm) for module in head.modules())


def test_given_weights_freeze_batch_norm_and_the_first_layers() -> None:
    fresh, pretrained = build_model(SMALL, 4), build_model(SMALL.replace(init="weights.pt"), 4)
    assert any(isinstance(module, nn.BatchNorm2d) for module in fresh.modules())
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in pretrained.modules())
    body = pretrained.backbone.body
    assert not any(parameter.requires_grad for parameter in body.layer1.parameters())
    assert all(parameter.requires_grad for parameter in body.layer2.parameters())


def test_an_identity_start_passes_features_through_the_head() -> None:
    torch.manual_seed(0)
    features = torch.rand(2, 32, 8, 8)
    tower = build_model(SMALL.replace(identity_start=True), 4).head.classification_head.conv
    # Four convolutions of the identity and N(0, 0.01) over 288 inputs: noise of about 0.01 * sqrt(288 / 3) each.
    assert torch.corrcoef(torch.stack((tower(features).flatten(), features.flatten())))[0, 1] > 0.7
    tower = build_model(SMALL, 4).head.classification_head.conv
    assert torch.corrcoef(torch.stack((tower(features).flatten(), features.flatten())))[0, 1].abs() < 0.3


def test_an_unknown_architecture_and_device() -> None:
    with pytest.raises(InputError, match=r"arch vgg16: expected one of resnet18, .*resnet50_v2"):
        build_model(Recipe(arch="vgg16"), 4)
    with pytest.raises(InputError, match="--device cuda:99: not usable here"):
        choose_device("cuda:99")
