"""Weights of every origin go through one loader: none is dropped without a word."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import retinanet_fast
from retinanet_fast import models
from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.prediction.predict import restore_model
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models.weights import Settings, settings_of
from retinanet_fast.models.weights import read as read_module

State = dict[str, Tensor]


def fresh() -> models.RetinaNet:
    torch.manual_seed(0)
    return models.retinanet_resnet18_fpn(num_classes=4)


@pytest.fixture(scope="module")
def state() -> State:
    """No two tensors alike, and none as a fresh model has it."""
    torch.manual_seed(1)
    shapes = fresh().state_dict()
    return {name: torch.rand(value.shape) for name, value in shapes.items() if not name.endswith("_tracked")}


def old_names(state: State) -> State:
    """The names of before torchvision 0.13, which its published RetinaNet v1 file has."""

    def old(key: str) -> str:
        parts = key.split(".")
        if parts[2] == "conv" and parts[0] == "head":
            return ".".join([*parts[:3], str(2 * int(parts[3])), parts[-1]])
        if parts[1] == "fpn" and parts[2] in ("inner_blocks", "layer_blocks"):
            return ".".join([*parts[:4], parts[-1]])
        return key

    renamed = {old(key): value for key, value in state.items()}
    assert {"head.regression_head.conv.6.bias", "backbone.fpn.inner_blocks.2.weight"} < renamed.keys()
    return renamed


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def built(path: Path) -> nn.Module:
    return models.retinanet_resnet18_fpn(weights=path)


def loaded(path: Path) -> nn.Module:
    model = fresh()
    assert retinanet_fast.load_weights(model, path).complete
    return model


def started_from(path: Path) -> nn.Module:
    """As ``retinanet-fast train --init`` does."""
    model = fresh()
    assert "missing" not in checkpoints.start_from(model, str(path))
    return model


LOADERS = [built, loaded, started_from]


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("content", [old_names, lambda state: {"model": state, "epoch": 3}])
def test_every_loader_takes_every_tensor(
    load: Callable[[Path], nn.Module], content: Callable[[State], Any], state: State, tmp_path: Path
) -> None:
    found = load(saved(tmp_path / "weights.pth", content(state))).state_dict()
    assert [name for name, value in state.items() if not torch.equal(found[name], value)] == []


def test_load_state_dict_takes_old_names_too(state: State) -> None:
    model = fresh()
    model.load_state_dict(old_names(state))
    assert torch.equal(
        model.head.regression_head.conv[3][0].bias, state["head.regression_head.conv.3.0.bias"]
    )


def eps_of(model: nn.Module) -> set[float]:
    return {module.eps for module in model.modules() if isinstance(module, models.FrozenBatchNorm2d)}


def test_the_files_content_decides_the_eps_of_batch_norm(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = saved(tmp_path / "any name.pth", old_names(state))
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    monkeypatch.setattr(read_module, "PUBLISHED_V1_SHA256", digest[:8])
    other = saved(tmp_path / "retinanet_resnet50_fpn_coco-eeacb38b.pth", {"model": old_names(state)})
    assert eps_of(models.retinanet_resnet18_fpn(weights=published)) == {0.0}
    assert eps_of(models.retinanet_resnet18_fpn(weights=other)) == {1e-5}
    model = models.retinanet_resnet18_fpn(weights=state)
    retinanet_fast.load_weights(model, state, frozen_eps=0.125)  # a state dict does not say
    assert eps_of(model) == {0.125}


def test_a_checkpoint_keeps_the_settings(state: State, tmp_path: Path) -> None:
    recipe = Recipe(arch="resnet18", init="published.pth")
    categories = [Category(id, name) for id, name in enumerate("abc")]
    path = tmp_path / checkpoints.LAST
    checkpoints.Checkpoint(state, recipe, categories, epoch=1, settings=Settings(0.0, None, False)).save(path)
    restored = restore_model(checkpoints.load(path), path, torch.device("cpu"))
    for model in (restored, models.retinanet_resnet18_fpn(weights=path)):
        assert settings_of(model) == (0.0, False, False)  # a basic block has no 1x1 convolution
        assert eps_of(model) == {0.0}
    content = torch.load(path)
    torch.save({**content, "settings": None, "frozen_eps": 0.125}, path)  # of before there were settings
    assert eps_of(models.retinanet_resnet18_fpn(weights=path)) == {0.125}


class Enum:
    """A member of a torchvision weights enum, as far as it is used."""

    url = "https://download.pytorch.org/models/retinanet_resnet50_fpn_coco-eeacb38b.pth"

    def __init__(self, state: State) -> None:
        self.state = state
        self.options: dict[str, Any] = {}

    def get_state_dict(self, **options: Any) -> State:
        self.options = options
        return self.state


def test_a_member_of_a_torchvision_enum(state: State) -> None:
    member = Enum(old_names(state))
    model = models.retinanet_resnet18_fpn(weights=member, progress=False)
    assert member.options == {"progress": False, "check_hash": True}
    assert eps_of(model) == {0.0}
    assert torch.equal(
        model.head.regression_head.conv[3][0].bias, state["head.regression_head.conv.3.0.bias"]
    )


@pytest.mark.parametrize("name", ["DEFAULT", "COCO_V1", "RetinaNet_ResNet50_FPN_Weights.DEFAULT"])
@pytest.mark.parametrize("keyword", ["weights", "weights_backbone"])
def test_published_names_without_torchvision(
    name: str, keyword: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / name, {})  # not even a file of that name is taken for it
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(
        ValueError, match=rf"weights '{name}': .* not installed: pip install torchvision, or give"
    ):
        models.retinanet_resnet18_fpn(**{keyword: name})


def test_a_published_name_alone_does_not_say_of_which_model(state: State) -> None:
    with pytest.raises(ValueError, match=r"of which model\? .* 'RetinaNet_ResNet50_FPN_Weights\.COCO_V1'"):
        retinanet_fast.load_weights(fresh(), "COCO_V1")


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((), {"pretrained": True}, r'pretrained: .* write weights="COCO_V1" .* or weights=None'),
        ((True,), {}, r'pretrained: .* write weights="COCO_V1"'),
        ((), {"pretrained_backbone": False}, r'write weights_backbone="IMAGENET1K_V1"'),
    ],
)
def test_torchvisions_removed_keywords(arguments: Any, keywords: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        models.retinanet_resnet18_fpn(*arguments, **keywords)


def test_positional_arguments_in_torchvisions_order(state: State) -> None:
    model = models.retinanet_resnet18_fpn(None, False, 7, body_of(state), 1)
    assert model.head.num_classes == 7
    trained = {name.split(".")[0] for name, p in model.backbone.body.named_parameters() if p.requires_grad}
    assert trained == {"layer4"}


def test_pretrained_weights_freeze_batch_norm_and_the_first_layers(state: State) -> None:
    model = models.retinanet_resnet18_fpn(weights=state)
    norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, models.FrozenBatchNorm2d))]
    assert all(type(norm) is models.FrozenBatchNorm2d and norm.eps == 1e-5 for norm in norms)
    frozen = {name.split(".")[1] for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}


def body_of(state: State) -> State:
    prefix = "backbone.body."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_weights_of_the_backbone_alone(state: State) -> None:
    classifier = {**body_of(state), "fc.weight": torch.zeros(1)}
    found = models.retinanet_resnet18_fpn(weights_backbone=classifier).state_dict()
    assert torch.equal(found["backbone.body.conv1.weight"], state["backbone.body.conv1.weight"])
    tower = "head.classification_head.conv.0.0.weight"
    assert not torch.equal(found[tower], state[tower])


def test_weights_that_do_not_fit(state: State, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_classes=4 for these weights, got 5"):
        models.retinanet_resnet18_fpn(weights=state, num_classes=5)
    with pytest.raises(ValueError, match="weights of a RetinaNet"):
        models.retinanet_resnet18_fpn(weights=body_of(state))
    with pytest.raises(ValueError, match=r"weights of another model: .* missing \(backbone\.body\.layer1\.2"):
        models.retinanet_resnet34_fpn(weights=state)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        models.retinanet_resnet18_fpn(weights=tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match=r"a\.pth: expected a state dict of tensors, got int 'epoch'"):
        models.retinanet_resnet18_fpn(weights=saved(tmp_path / "a.pth", {"epoch": 3}))


def test_what_is_left_out_is_reported(state: State) -> None:
    names = ("head.regression_head.bbox_reg.bias", "head.classification_head.cls_logits.bias")
    given = {**state, "extra": torch.zeros(1), names[0]: torch.zeros(5)}
    del given[names[1]]
    report = retinanet_fast.load_weights(fresh(), given, strict=False)
    assert (report.missing, report.unused) == ([names[1]], ["extra"])
    assert report.other_shape == [f"{names[0]} [5], expected [36]"]
    assert str(report).startswith(
        f"{len(state) - 2} tensors loaded; 1 missing ({names[1]}); 1 not used (extra)"
    )
