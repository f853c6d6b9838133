"""``accelerate`` without torchvision: its errors, our own model, and the stand-in for the outputs of a head."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import retinanet_fast
from retinanet_fast.acceleration import report
from retinanet_fast.acceleration.head_levels import HeadLevels, level_outputs, split_outputs, split_rows
from retinanet_fast.acceleration.rebind import rebind


def test_a_model_without_a_detector() -> None:
    for call in (retinanet_fast.accelerate, report):
        with pytest.raises(
            TypeError, match=r"found none in Linear\. Supported are RetinaNet, FCOS, SSD and the R-CNNs"
        ):
            call(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got dict"):
        retinanet_fast.accelerate({})  # type: ignore[type-var]


def test_our_own_model_has_nothing_to_replace(capsys: pytest.CaptureFixture[str]) -> None:
    model = retinanet_fast.models.retinanet_resnet18_fpn(weights=None, weights_backbone=None, num_classes=2)
    kind = type(model)
    assert retinanet_fast.accelerate(model, verify=[torch.rand(3, 32, 32)]) is model
    assert retinanet_fast.accelerate(model, undo=True) is model
    assert type(model) is kind
    assert "model: RetinaNet.forward left as it is: it is on the ops already" in capsys.readouterr().out


def test_torchvision_is_not_imported() -> None:
    code = (
        "import sys, torch, retinanet_fast\n"
        "try: retinanet_fast.accelerate(torch.nn.Identity())\n"
        "except TypeError: print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


def levels() -> tuple[HeadLevels, HeadLevels]:
    torch.manual_seed(0)
    sizes = ((3, 4), (2, 1))
    logits = [torch.randn(2, 3 * 5, *size) for size in sizes]
    deltas = [torch.randn(2, 3 * 4, *size) for size in sizes]
    return HeadLevels(logits, 5), HeadLevels(deltas, 4)


def test_the_tensor_of_levels() -> None:
    logits, deltas = levels()
    tensor = logits.tensor()
    assert tensor.shape == (2, 3 * 14, 5)
    assert logits.size(1) == 42
    # level 1, y = 1, x = 0, anchor 2 and class 4
    assert tensor[1, 36 + 3 + 2, 4] == logits.levels[1][1, 2 * 5 + 4, 1, 0]
    # level 0, y = 2, x = 3, anchor 1, the second delta
    assert deltas.tensor()[0, (2 * 4 + 3) * 3 + 1, 1] == deltas.levels[0][0, 1 * 4 + 1, 2, 3]
    assert torch.equal(torch.cat([logits, logits]), torch.cat([tensor, tensor]))  # type: ignore[list-item]
    assert torch.equal(logits.sum(), tensor.sum())
    assert torch.equal(1 - logits, 1 - tensor)  # type: ignore[operator]
    assert logits.size() == logits.shape == tensor.shape
    with pytest.raises(AttributeError):
        logits.no_such_attribute  # noqa: B018


def test_splitting_by_levels_makes_no_tensor() -> None:
    logits, _ = levels()
    assert list(map(id, logits.split([36, 6], dim=1))) == list(map(id, logits.levels))
    assert [part.shape[1] for part in logits.split([6, 36], dim=1)] == [6, 36]


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(again: object) -> None:
    logits, _ = levels()
    copied = again(logits)  # type: ignore[operator]
    assert torch.equal(copied.tensor(), logits.tensor())


def test_mixtures_of_levels_and_tensors() -> None:
    logits, deltas = levels()
    assert level_outputs(logits, deltas) == (logits.levels, deltas.levels)
    rows = level_outputs(logits, deltas.tensor())
    assert [part.shape for part in (*rows[0], *rows[1])] == [(2, 5, 42, 1), (2, 4, 42, 1)]
    assert torch.equal(rows[0][0][1, :, 7, 0], logits.tensor()[1, 7])
    sizes = [36, 6]
    split = list(logits.split(sizes, 1)), list(deltas.tensor().split(sizes, 1))
    for got, want in zip(split_rows(*split), (logits, deltas), strict=True):
        assert all(map(torch.equal, got, want.tensor().split(sizes, 1)))
    assert [part.shape for part in split_outputs(*split)[0]] == [(2, 5, 36, 1), (2, 5, 6, 1)]


def outer(x: int, *, y: int = 2) -> tuple[str, int]:
    return helper(), x + y


def helper() -> str:
    return "own"


def test_a_rebound_function() -> None:
    bound = rebind(outer, {"helper": lambda: "other"})  # type: ignore[arg-type]
    assert (bound(1), bound(1, y=5), outer(1)) == (("other", 3), ("other", 6), ("own", 3))
    assert (bound.__name__, bound.__qualname__, bound.__module__) == ("outer", "outer", __name__)
