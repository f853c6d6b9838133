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
from retinanet_fast.acceleration.verify import Results, compare


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
    # Not in the source folder, which may hold another environment's extension.
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=120)
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
    return looked_up(), x + y


def looked_up() -> str:
    return "own"


def test_a_rebound_function() -> None:
    bound = rebind(outer, {"looked_up": lambda: "other"})  # type: ignore[arg-type]
    assert (bound(1), bound(1, y=5), outer(1)) == (("other", 3), ("other", 6), ("own", 3))
    assert (bound.__name__, bound.__qualname__, bound.__module__) == ("outer", "outer", __name__)


def found(scores: list[float], boxes: list[float], gradient: float = 1.0) -> Results:
    """One image's detections, of the boxes (x, x, x + 10, x + 10), all of class 1."""
    corners = torch.tensor(boxes)[:, None].expand(-1, 4) + torch.tensor([0.0, 0, 10, 10])
    detections = {"scores": torch.tensor(scores), "boxes": corners, "labels": torch.ones(len(scores)).long()}
    gradients = {"a": torch.tensor([100.0]), "b": torch.tensor([gradient])}
    return Results([detections], {"loss": torch.tensor(2.0)}, gradients, torch.float32)


@pytest.mark.parametrize(
    ("other", "exceeding"),
    [
        (found([0.9, 0.8, 0.5], [1, 2, 3]), []),
        (found([0.8, 0.9, 0.5], [2, 1, 3]), []),  # the order of detections is not compared
        (found([0.9, 0.8, 0.5], [1, 2, 40]), []),  # another of the lowest score: a tie that was cut
        (found([0.9, 0.8, 0.5], [1, 20, 40]), []),  # one in all may lack a partner
        (found([0.9, 0.8, 0.5], [10, 20, 3]), ["of 3 detections, without an equal"]),
        (found([0.9], [1]), ["of 3 detections, without an equal"]),
        # 1% of its largest value, where 0.1% are allowed
        (found([0.9, 0.8, 0.5], [1, 2, 3], gradient=1.01), ["gradient of b, of its largest value"]),
        (found([0.9, 0.8, 0.5], [1, 2, 3], gradient=float("nan")), ["gradient of b, of its largest value"]),
    ],
)
def test_what_verify_counts_as_a_difference(other: Results, exceeding: list[str]) -> None:
    differences = compare("", other, found([0.9, 0.8, 0.5], [1, 2, 3]))
    assert [difference.what for difference in differences if difference.exceeds] == exceeding


def test_a_gradient_that_cancels_is_not_compared_with_itself() -> None:
    differences = compare("", found([0.9], [1], gradient=3e-6), found([0.9], [1], gradient=1e-6))
    assert not any(
        difference.exceeds for difference in differences
    )  # 2e-6, where the largest gradient is 100
