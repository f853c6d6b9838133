"""Models from recipes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from retinanet_fast.engine import recipe as recipes
from retinanet_fast.engine.build_model import build_model, choose_device
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models import retinanet_resnet18_fpn, retinanet_resnet50_fpn_v2

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
