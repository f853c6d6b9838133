"""mmcv's focal losses: values of its own code at commit a8073c74bf83d62ec36a103f835faa4837fb6585, labels, dtypes.

The literal values below were computed by its CUDA kernels' code compiled for the CPU, in float32.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from retinanet_fast import ops, reference
from retinanet_fast.compat import mmcv

LOGITS = [[1.5, -0.5, 0.0], [-2.0, 0.25, 3.0], [0.5, 0.5, -1.0], [0.0, -3.0, 1.0]]
WITH_BACKGROUND = [0, 3, 2, 1]  # 3 is background
CLASSES = [0, 2, 2, 1]
WEIGHT = [0.5, 2.0, 1.5]

SIGMOID_LOSSES = [
    [0.0016757126431912184, 0.05068012699484825, 0.12996509671211243],
    [0.0013526719994843006, 0.19577394425868988, 2.0747103691101074],
    [0.2830587327480316, 0.2830587327480316, 0.17546707391738892],
    [0.12996509671211243, 0.6915701627731323, 0.5264012813568115],
]
SIGMOID_GRADIENTS = [
    [-0.004257778637111187, 0.10345277190208435, 0.22371509671211243],
    [0.0036532049998641014, 0.3046826124191284, 0.8450624942779541],
    [0.3946138620376587, 0.3946138620376587, -0.19205868244171143],
    [0.22371509671211243, -0.28168749809265137, 0.5761760473251343],
]
WEIGHTED_SIGMOID_LOSSES = [  # of CLASSES, with WEIGHT
    [0.0008378563215956092, 0.025340063497424126, 0.06498254835605621],
    [0.002029007999226451, 0.2936609089374542, 4.098122735740617e-05],
    [0.42458808422088623, 0.42458808422088623, 0.2632006108760834],
    [0.25993019342422485, 1.3831403255462646, 1.052802562713623],
]
WEIGHTED_SIGMOID_GRADIENTS = [
    [-0.0021288893185555935, 0.051726385951042175, 0.11185754835605621],
    [0.005479807499796152, 0.4570239186286926, -0.00011807689588749781],
    [0.591920793056488, 0.591920793056488, -0.28808802366256714],
    [0.44743019342422485, -0.5633749961853027, 1.1523520946502686],
]
SOFTMAX_LOSSES = [0.005332897882908583, 7.436172018060461e-05, 0.4651504158973694, 1.053246259689331]
SOFTMAX_GRADIENTS = [
    [-0.012444773688912392, 0.004698408767580986, 0.007746366783976555],
    [2.0098439563298598e-05, 0.00019068867550231516, -0.00021078722784295678],
    [0.1376994103193283, 0.1376994103193283, -0.275398850440979],
    [0.07209071516990662, -0.2680535614490509, 0.19596286118030548],
]
WEIGHTED_SOFTMAX_GRADIENTS = [
    [-0.006222386844456196, 0.002349204383790493, 0.0038731833919882774],
    [3.01476611639373e-05, 0.000286033027805388, -0.00031618087086826563],
    [0.20654912292957306, 0.20654912292957306, -0.4130982756614685],
    [0.14418143033981323, -0.5361071228981018, 0.39192572236061096],
]
# mmcv computes 1 - p in float32, so that what is left of it has fewer digits where p is close to 1.
CLOSE = {"rtol": 2e-5, "atol": 1e-7}


def run(function: Any, target: list[int], weight: list[float] | None, reduction: str) -> Any:
    logits = torch.tensor(LOGITS, requires_grad=True)
    weights = None if weight is None else torch.tensor(weight)
    loss = function(logits, torch.tensor(target), 2.0, 0.25, weights, reduction)
    loss.sum().backward()
    return loss, logits.grad


def reduced(losses: list[Any], reduction: str) -> torch.Tensor:
    """As mmcv reduces: the mean is over rows."""
    table = torch.tensor(losses)
    return {"none": table, "sum": table.sum(), "mean": table.sum() / 4}[reduction]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    ("target", "weight", "losses", "gradients"),
    [
        (WITH_BACKGROUND, None, SIGMOID_LOSSES, SIGMOID_GRADIENTS),
        (CLASSES, WEIGHT, WEIGHTED_SIGMOID_LOSSES, WEIGHTED_SIGMOID_GRADIENTS),
    ],
)
def test_sigmoid_focal_loss(
    target: list[int], weight: list[float] | None, losses: Any, gradients: Any, reduction: str
) -> None:
    loss, gradient = run(mmcv.sigmoid_focal_loss, target, weight, reduction)
    torch.testing.assert_close(loss, reduced(losses, reduction), **CLOSE)
    scale = 4 if reduction == "mean" else 1
    torch.testing.assert_close(gradient, torch.tensor(gradients) / scale, **CLOSE)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    ("weight", "gradients"), [(None, SOFTMAX_GRADIENTS), (WEIGHT, WEIGHTED_SOFTMAX_GRADIENTS)]
)
def test_softmax_focal_loss(weight: list[float] | None, gradients: Any, reduction: str) -> None:
    loss, gradient = run(mmcv.softmax_focal_loss, CLASSES, weight, reduction)
    factors = [1.0] * 4 if weight is None else [weight[target] for target in CLASSES]
    losses = [loss * factor for loss, factor in zip(SOFTMAX_LOSSES, factors)]
    torch.testing.assert_close(loss, reduced(losses, reduction), **CLOSE)
    scale = 4 if reduction == "mean" else 1
    torch.testing.assert_close(gradient, torch.tensor(gradients) / scale, **CLOSE)


def test_background_is_c_and_any_number_that_is_no_class() -> None:
    logits = torch.tensor(LOGITS)
    for background in (3, -1, -2, 255):
        target = torch.full((4,), background)
        assert mmcv.sigmoid_focal_loss(logits, target, reduction="sum").item() == pytest.approx(
            4.54499531, rel=1e-6
        )
    # The ops' own labels are others: C is out of range, and -2 is ignored there.
    with pytest.raises(IndexError):
        ops.sigmoid_focal_loss(logits, torch.full((4,), 3))
    assert ops.sigmoid_focal_loss(logits, torch.full((4,), -2), reduction="sum").item() == 0


def test_weight_of_a_background_row_is_one() -> None:
    loss = mmcv.sigmoid_focal_loss(
        torch.tensor(LOGITS), torch.tensor(WITH_BACKGROUND), weight=torch.tensor(WEIGHT), reduction="none"
    )
    torch.testing.assert_close(loss[1], torch.tensor(SIGMOID_LOSSES[1]), **CLOSE)


def test_softmax_ignores_negative_targets() -> None:
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = mmcv.softmax_focal_loss(logits, torch.tensor([-1, 2, -1, 0]), reduction="none")
    expected = torch.tensor([0.0, 0.00007436, 0.0, 0.17897147])  # eight decimals
    torch.testing.assert_close(loss, expected, rtol=2e-5, atol=1e-8)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[[0, 2]].eq(0).all()
    with pytest.raises(IndexError):
        mmcv.softmax_focal_loss(logits, torch.tensor([3, 0, 0, 0]))


def test_losses_of_confident_logits_are_right() -> None:
    # mmcv has -ln(FLT_MIN) = 87.3 here, and 0 for the other one.
    logits = torch.tensor([[-100.0, 20.0]])
    loss = mmcv.sigmoid_focal_loss(logits, torch.tensor([0]), reduction="none")
    assert loss.tolist()[0] == pytest.approx([0.25 * 100, 0.75 * 20], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_focal_losses_of_other_dtypes(dtype: torch.dtype, reduction: str) -> None:
    target = torch.tensor(WITH_BACKGROUND)
    logits = torch.tensor(LOGITS, dtype=dtype, requires_grad=True)
    one_hot = torch.nn.functional.one_hot(target, 4)[:, :3].double()
    exact = reference.sigmoid_focal_loss(logits.detach().double(), one_hot, 0.25, 2.0)
    expected = {"none": exact, "sum": exact.sum(), "mean": exact.sum() / 4}[reduction]
    loss = mmcv.sigmoid_focal_loss(logits, target, reduction=reduction)
    loss.sum().backward()
    assert logits.grad is not None
    assert loss.dtype == logits.grad.dtype == dtype
    # Two roundings to the dtype; float64 differs by the order of operations.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=max(2 * eps, 1e-12), atol=1e-6 * eps)


def test_the_mean_in_float16_keeps_small_factors() -> None:
    # 1 / N is below float16's normal numbers, and the sum above its range.
    logits = torch.full((200_000, 1), 3.0, dtype=torch.float16, requires_grad=True)
    loss = mmcv.sigmoid_focal_loss(logits, torch.ones(200_000, dtype=torch.int64))
    p = 1 / (1 + math.exp(-3.0))
    assert loss.item() == pytest.approx(-0.75 * p * p * math.log(1 - p), rel=1e-3)  # float16's rounding
    loss.backward(torch.tensor(32768.0, dtype=torch.float16))  # a GradScaler's factor
    assert logits.grad is not None
    slope = 0.75 * p * p * (p - 2 * (1 - p) * math.log(1 - p))
    assert logits.grad[0, 0].item() == pytest.approx(slope * 32768 / 200_000, rel=2e-3)


def test_focal_losses_of_no_rows() -> None:
    for function in (mmcv.sigmoid_focal_loss, mmcv.softmax_focal_loss):
        empty = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.int64)
        assert function(*empty, reduction="sum").item() == 0
        assert math.isnan(function(*empty).item())


def test_focal_loss_modules() -> None:
    logits, target = torch.tensor(LOGITS), torch.tensor(CLASSES)
    for module, function in (
        (mmcv.SigmoidFocalLoss, mmcv.sigmoid_focal_loss),
        (mmcv.SoftmaxFocalLoss, mmcv.softmax_focal_loss),
    ):
        loss = module(2.0, 0.25, torch.tensor(WEIGHT), "sum")
        assert list(loss.state_dict()) == ["weight"]
        expected = function(logits, target, 2.0, 0.25, torch.tensor(WEIGHT), "sum")
        assert loss(logits, target).item() == expected.item()
        assert list(module(2.0, 0.25).state_dict()) == []
    assert repr(mmcv.SigmoidFocalLoss(2.0, 0.25)) == "SigmoidFocalLoss(gamma=2.0, alpha=0.25, reduction=mean)"
