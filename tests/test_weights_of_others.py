"""detectron2's and mmdetection's checkpoints in our model: every tensor used, and the same outputs."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_weights import (
    NUM_CLASSES,
    State,
    anchors,
    detectron2_outputs,
    detectron2_state,
    mmdetection_outputs,
    mmdetection_state,
)
from torch import Tensor, nn

import retinanet_fast
from retinanet_fast import models
from retinanet_fast.models.weights import read_tensors, read_weights, settings_of
from retinanet_fast.nn import retinanet_anchor_generator

NAMES = ["detectron2", "mmdetection"]


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    return {"detectron2": detectron2_state(), "mmdetection": mmdetection_state()}


@pytest.fixture(scope="module")
def built(states: dict[str, State]) -> dict[str, models.RetinaNet]:
    build = models.retinanet_resnet50_fpn
    return {name: build(weights=state, min_size=64, max_size=64).eval() for name, state in states.items()}


def outputs(model: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Logits and deltas of each level as ``[B, H, W, ratio, size, C or 4]``."""
    batch, _ = model.transform(list(images))
    head = model.head(model.backbone(batch.tensors))
    return [
        tuple(x.unflatten(1, (3, 3, -1)).permute(0, 4, 5, 1, 2, 3) for x in pair)
        for pair in zip(head["cls_logits"], head["bbox_regression"], strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_outputs_for_the_same_anchors(
    name: str, states: dict[str, State], built: dict[str, models.RetinaNet]
) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    forward = detectron2_outputs if name == "detectron2" else mmdetection_outputs
    model = built[name]
    with torch.no_grad():
        expected, found = forward(states[name], images), outputs(model, images)
    grid = model.anchor_generator((64, 64), [level.shape[1:3] for level, _ in found])
    assert grid.strides == tuple((stride, stride) for stride in (8, 16, 32, 64, 128))
    assert [list(level.shape[1:3]) for level, _ in found] == [[8, 8], [4, 4], [2, 2], [1, 1], [1, 1]]
    for level, (theirs, ours) in enumerate(zip(expected, found, strict=True)):
        size_major = name == "detectron2"
        boxes = anchors(level, size_major)
        if size_major:
            theirs, boxes = [x.transpose(3, 4) for x in theirs], boxes.transpose(0, 1)
        # Anchors below 1024 pixels, in float32; they compute sizes in float64.
        torch.testing.assert_close(
            grid.base_anchors[level].double(), boxes.flatten(0, 1), rtol=1e-6, atol=1e-5
        )
        logits, deltas = ours
        # float32 through 60 layers, in other orders and with the factors of the first convolution folded in.
        for a, b in ((logits[..., 1:], theirs[0]), (deltas, theirs[1])):
            assert b.std() > 0.1
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.std().item())
        assert (logits[..., 0] == -20).all()  # the background that they have not


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_used_in_any_wrapping(name: str, states: dict[str, State], tmp_path: Path) -> None:
    state = states[name]
    wrapped = {"model": state, "iteration": 9} if name == "detectron2" else {"meta": {}, "state_dict": state}
    parallel = {f"module.{key}": value for key, value in state.items()}
    expected = models.retinanet_resnet50_fpn(weights=state).state_dict()
    for index, content in enumerate((wrapped, {**wrapped, "model": parallel})):
        path = tmp_path / f"{index}.pth"
        torch.save(content, path)
        model = models.retinanet_resnet50_fpn(weights=path)
        assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    without_background = models.retinanet_resnet50_fpn(weights=state, num_classes=NUM_CLASSES)
    head = without_background.head.classification_head.cls_logits
    assert torch.equal(
        head.weight.unflatten(0, (9, -1)),
        expected["head.classification_head.cls_logits.weight"].unflatten(0, (9, -1))[:, 1:],
    )
    with pytest.raises(ValueError, match=f"expected num_classes={NUM_CLASSES + 1} for these weights, got 91"):
        models.retinanet_resnet50_fpn(weights=state, num_classes=91)


def test_the_report_says_what_was_changed_and_what_is_left(states: dict[str, State]) -> None:
    model = models.retinanet_resnet50_fpn(num_classes=NUM_CLASSES + 1, image_std=(1, 1, 1))
    report = retinanet_fast.load_weights(model, states["detectron2"], strict=False)
    p6 = "backbone.fpn.extra_blocks.p6.weight"  # our v1 computes P6 from P5
    assert report.other_shape == [f"{p6} [256, 2048, 3, 3], expected [256, 256, 3, 3]"]
    assert (report.missing, report.unused) == ([], [])
    assert [note.split(":")[0] for note in report.notes] == [
        "detectron2's, taken to be of BGR images with stride in the 1x1 convolutions; "
        "if not so, give caffe_style=False",
        "labels are its classes from 1; 0 is the background",
        "trained with anchors that are not rounded, unlike the model's",
        "for image_mean=(0.485, 0.456, 0.406) and image_std=(0.229, 0.224, 0.225), unlike the model's",
    ]
    assert all(note in str(report) for note in report.notes)
    assert settings_of(model).stride_in_1x1


def test_what_detectron2s_file_says_of_its_images(states: dict[str, State]) -> None:
    state = dict(states["detectron2"])
    first = "backbone.bottom_up.stem.conv1.weight"
    state["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    state["pixel_std"] = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    found = read_weights(state)  # a ResNet of torchvision's in detectron2
    assert torch.equal(found.state["backbone.body.conv1.weight"], state[first])
    assert found.settings.stride_in_1x1 is False
    state["pixel_mean"] = torch.tensor([90.0, 100.0, 110.0]).view(3, 1, 1)
    assert "image_mean=[0.4314, 0.3922, 0.3529]" in read_weights(state).notes[1]
    plain = read_weights(states["detectron2"], caffe_style=False)
    assert torch.equal(plain.state["backbone.body.conv1.weight"], state[first])


def test_what_mmdetections_file_says(states: dict[str, State]) -> None:
    state = states["mmdetection"]
    config = (
        "backbone=dict(style='caffe'), mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False"
    )
    found = read_weights({"state_dict": state, "meta": {"mmdet_version": "3.0.0", "cfg": config}})
    assert found.settings == (1e-5, True, False)
    weight = state["backbone.conv1.weight"].flip(1) * torch.tensor([0.229, 0.224, 0.225])[:, None, None] * 255
    torch.testing.assert_close(found.state["backbone.body.conv1.weight"], weight)
    for meta, message in (
        ({"mmdet_version": "1.2.0"}, "of mmdetection 1.2.0, whose anchors and boxes"),
        ({"config": "add_extra_convs = 'on_lateral'"}, "whose P6 comes from a lateral convolution"),
        ({"config": "target_stds=[0.1, 0.1, 0.2, 0.2]"}, r"divided by \(0.1,0.1,0.2,0.2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read_weights({"state_dict": state, "meta": meta})


def test_other_numbers_of_anchors_in_a_cell(states: dict[str, State]) -> None:
    """Two sizes of three ratios: known only where the file has the anchors."""
    state = {
        **states["detectron2"],
        "head.cls_score.bias": torch.arange(6.0).repeat_interleave(NUM_CLASSES),  # anchor size * 3 + ratio
        "head.cls_score.weight": torch.zeros(6 * NUM_CLASSES, 256, 3, 3),
        "head.bbox_pred.bias": torch.zeros(24),
        "head.bbox_pred.weight": torch.zeros(24, 256, 3, 3),
    }
    with pytest.raises(ValueError, match="6 anchors per cell: which are sizes and which ratios"):
        read_weights(state)
    state["anchor_generator.cell_anchors.0"] = anchors(0, size_major=True)[:2].flatten(0, 1)
    bias = read_weights(state).state["head.classification_head.cls_logits.bias"]
    assert bias.view(6, NUM_CLASSES)[:, 0].tolist() == [0, 3, 1, 4, 2, 5]


def test_norms_that_ours_has_not_are_refused_by_name(states: dict[str, State]) -> None:
    state = {**states["detectron2"], "backbone.fpn_lateral3.norm.weight": torch.ones(256)}
    with pytest.raises(ValueError, match=r"1 not used \(backbone\.fpn_lateral3\.norm\.weight\)"):
        models.retinanet_resnet50_fpn(weights=state)
    with pytest.raises(ValueError, match=r"the names of a Caffe2 ResNet"):
        models.retinanet_resnet50_fpn(
            weights_backbone={"blobs": {"res2_0_branch2a_w": 1, "weight_order": ""}}
        )


def test_detectron2s_resnets(states: dict[str, State]) -> None:
    """The names of its tools/convert-torchvision-to-d2.py; the classifier is ``stem.fc``."""
    prefix = "backbone.bottom_up."
    body = {k.removeprefix(prefix): v for k, v in states["detectron2"].items() if k.startswith(prefix)}
    model = models.retinanet_resnet50_fpn(weights_backbone={**body, "stem.fc.weight": torch.ones(1)})
    expected = body["res5.2.conv3.norm.running_var"]
    assert torch.equal(model.backbone.body.layer4[2].bn3.running_var, expected)
    assert model.backbone.body.stride_in_1x1


# --- pickles of numpy arrays ---


@pytest.mark.parametrize("protocol", [2, 4])
def test_detectron2s_pkl(protocol: int, states: dict[str, State], tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    arrays = OrderedDict((name, value.numpy()) for name, value in states["detectron2"].items())
    with path.open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file, protocol)
    found, expected = read_weights(path), read_weights(states["detectron2"])
    assert found.state.keys() == expected.state.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in expected.state.items())


class Runs:
    """A pickle that runs a function where it is read."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Runs(os.system, "touch ran"), "it asks for posix.system"),
        (Runs(eval, "open('ran', 'w')"), "it asks for builtins.eval"),
        (Runs(np.ndarray, (10**15,)), "a damaged one"),  # an array of a petabyte
        (
            Runs(np.empty(0).__reduce__()[0], np.ndarray, (10**15,), b"b"),
            "an array that does not begin empty",
        ),
        (Runs(np.load, "file.npy"), "it asks for numpy.*load"),
        ({"model": {"conv1.weight": np.array([print], dtype=object)}}, "it asks for builtins.print"),
        ({"model": {"conv1.weight": np.array(["a"], dtype=object)}}, "tensors, got ndarray 'conv1.weight'"),
    ],
)
def test_a_pkl_runs_nothing(
    content: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=message):
        models.retinanet_resnet18_fpn(weights=path)
    assert not (tmp_path / "ran").exists()


def test_scalars_and_damaged_pkls(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    content = pickle.dumps({"model": {"w": np.ones(3)}, "iteration": np.int64(7), "lr": np.float32(0.5)})
    path.write_bytes(content)
    found = read_tensors(path)
    assert (found["iteration"], found["lr"]) == (7, 0.5)
    path.write_bytes(content[:-20])
    with pytest.raises(ValueError, match=r"model\.pkl: not a file of weights"):
        read_tensors(path)


def test_what_a_torch_file_asks_for_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hub": Runs(os.system, "touch ran")}, path := tmp_path / "epoch_12.pth")
    with pytest.raises(ValueError, match=r"expected tensors and plain values, found posix\.system"):
        read_tensors(path)


def test_exact_anchors_stay_so_on_another_device() -> None:
    generator = retinanet_anchor_generator(exact=True)
    before = generator.base_anchors.clone()
    assert not torch.equal(before, before.round())
    assert torch.equal(generator.double().base_anchors, before)
    with pytest.raises(ValueError, match="expected strides for 1 levels, got 2"):
        type(generator)([(32,)], strides=[8, 16])
