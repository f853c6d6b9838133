"""The ops under torch.func's transforms, against torch.autograd of their twins, or of the ops themselves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from cases import generator, make_grid
from focal_cases import logits
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from transform_cases import CASES, CLASSES, F64, GRID, GT, TARGETS, Case, head_outputs

from retinanet_fast import ops, reference


def scalar(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of its result, and with a second derivative that is not that of a sum."""
    return lambda *inputs: function(*inputs).square().sum()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def every(inputs: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(inputs)))


def assert_same(found: Any, expected: Any) -> None:
    # Twice the same formula in float64; second derivatives add some tens of its rounding errors.
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_grad(case: Case) -> None:
    function, inputs = case
    expected = grads_of(scalar(function(reference, 0)), inputs(0))
    assert_same(grad(scalar(function(ops, 0)), every(inputs(0)))(*inputs(0)), expected)


def grads_of(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(function(*leaves), leaves)


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobians(case: Case, transform: Callable[..., Any]) -> None:
    function, inputs = case
    expected = torch.autograd.functional.jacobian(function(reference, 0), inputs(0))
    assert_same(transform(function(ops, 0), every(inputs(0)))(*inputs(0)), expected)


def test_jvp(case: Case) -> None:
    function, inputs = case
    tangents = tuple(torch.randn(x.shape, generator=generator(9), dtype=F64) for x in inputs(0))
    jacobian = torch.autograd.functional.jacobian(function(reference, 0), inputs(0))
    expected = sum(torch.tensordot(j, t, dims=t.dim()) for j, t in zip(jacobian, tangents, strict=True))
    found, tangent = jvp(function(ops, 0), inputs(0), tangents)
    assert_same(found, function(ops, 0)(*inputs(0)))
    assert_same(tangent, expected)


def test_second_derivatives(case: Case) -> None:
    function, inputs = case
    expected = torch.autograd.functional.hessian(scalar(function(reference, 0)), inputs(0))
    assert_same(hessian(scalar(function(ops, 0)), every(inputs(0)))(*inputs(0)), expected)


# ---- vmap: the calls one after the other, by the ops themselves ---------------------------------------------------


def batched(name: str) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The three calls as one function of their arguments and of the index of the call, and all arguments, stacked."""
    inputs = CASES[name][1]
    stacked = tuple(torch.stack(parts) for parts in zip(*map(inputs, range(3)), strict=True))
    targets = {"sigmoid_focal_loss-labels": TARGETS, "softmax_focal_loss": TARGETS.clamp_min(0)}

    if name == "sigmoid_focal_loss-labels":
        return lambda x, t: ops.sigmoid_focal_loss(x, t, 0.3, 1.5), (*stacked, targets[name])
    if name == "softmax_focal_loss":
        return lambda x, t: ops.softmax_focal_loss(x, t, [1, 2, 3, 4], 1.5), (*stacked, targets[name])
    if not name.startswith("retinanet_loss"):
        return CASES[name][0](ops, 0), stacked
    box_loss = name.split("-")[1]

    def loss(*arguments: Tensor) -> Tensor:
        *outputs, boxes = arguments
        found = ops.retinanet_loss(
            outputs[:2], outputs[2:], GRID, [boxes], [torch.tensor([0, 2, 1])], box_loss=box_loss
        )
        return found["classification"] + 3 * found["bbox_regression"]

    return loss, (*stacked, torch.stack(GT))


@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("name", CASES)
def test_vmap(name: str, dim: int) -> None:
    function, arguments = batched(name)
    expected = torch.stack([CASES[name][0](ops, call)(*CASES[name][1](call)) for call in range(3)])
    assert_same(vmap(function, in_dims=dim)(*(x.movedim(0, dim) for x in arguments)), expected)


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_each_sample(name: str) -> None:
    make, inputs = CASES[name]
    function, arguments = batched(name)
    argnums = every(inputs(0))
    expected = [grads_of(scalar(make(ops, call)), inputs(call)) for call in range(3)]
    found = vmap(grad(scalar(function), argnums))(*arguments)
    assert_same(found, tuple(torch.stack(parts) for parts in zip(*expected, strict=True)))
    total = grad(lambda *arguments: vmap(scalar(function))(*arguments).sum(), argnums)
    assert_same(total(*arguments), found)
    nested = vmap(vmap(grad(scalar(function), argnums)))(*(x[None] for x in arguments))
    assert_same(nested, tuple(x[None] for x in found))


def test_gradients_of_each_image_of_a_model() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Conv2d(2, 9, 1)
            self.deltas = torch.nn.Conv2d(2, 12, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.logits(x), self.deltas(x)

    layer = Layer().double()
    grid = make_grid(levels=1, size=(3, 4))
    images = torch.randn(3, 2, 3, 4, generator=generator(5), dtype=F64)
    classes = torch.tensor([[0, 1, 2], [2, 2, 0], [1, 0, 1]])

    def loss(parameters: dict[str, Tensor], image: Tensor, boxes: Tensor, of_boxes: Tensor) -> Tensor:
        logits, deltas = functional_call(layer, parameters, (image[None],))
        return sum(ops.retinanet_loss([logits], [deltas], grid, [boxes], [of_boxes]).values())

    found = vmap(grad(loss), in_dims=(None, 0, 0, 0))(
        dict(layer.named_parameters()), images, torch.stack(GT), classes
    )
    for image in range(3):
        layer.zero_grad()
        outputs = layer(images[image][None])
        sum(
            ops.retinanet_loss([outputs[0]], [outputs[1]], grid, [GT[image]], [classes[image]]).values()
        ).backward()
        assert_same({n: g[image] for n, g in found.items()}, {n: p.grad for n, p in layer.named_parameters()})


def test_gradients_of_each_sample_with_padded_targets() -> None:
    outputs = tuple(torch.stack(parts) for parts in zip(*map(head_outputs, range(3)), strict=True))
    classes = torch.tensor([[0, 2, 1], [1, -1, 99], [-1, -1, -1]])  # padding has any label
    counts = torch.tensor([3, 1, 0])

    def loss(outputs: tuple[Tensor, ...], boxes: Tensor, classes: Tensor, counts: Tensor) -> Tensor:
        targets = boxes[None], classes[None]
        losses = ops.retinanet_loss(outputs[:2], outputs[2:], GRID, *targets, gt_counts=counts[None])
        return losses["classification"] + 3 * losses["bbox_regression"]

    found = vmap(grad(loss))(outputs, torch.stack(GT), classes, counts)
    for call, count in enumerate(counts.tolist()):
        leaves = [x[call].clone().requires_grad_() for x in outputs]
        losses = ops.retinanet_loss(leaves[:2], leaves[2:], GRID, [GT[call][:count]], [classes[call, :count]])
        (losses["classification"] + 3 * losses["bbox_regression"]).backward()
        assert_same([x[call] for x in found], [x.grad for x in leaves])


# ---- dual tensors and compiled functions ---------------------------------------------------------------------------


def test_dual_tensors_of_forward_mode(case: Case) -> None:
    """Without a transform the ops call their decompositions themselves."""
    make, inputs = case
    function = make(ops, 0)
    directions = tuple(torch.randn(x.shape, generator=generator(3), dtype=F64) for x in inputs(0))
    with forward_ad.dual_level():
        duals = map(forward_ad.make_dual, inputs(0), directions)
        found, tangent = forward_ad.unpack_dual(function(*duals))
    assert_same((found, tangent), jvp(function, inputs(0), directions))


def test_jacobians_of_forward_mode_autograd(case: Case) -> None:
    make, inputs = case
    expected = torch.autograd.functional.jacobian(make(reference, 0), inputs(0))
    found = torch.autograd.functional.jacobian(
        make(ops, 0), inputs(0), vectorize=True, strategy="forward-mode"
    )
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["sigmoid_focal_loss-labels", "box_iou", "retinanet_loss-l1"])
def test_compiled(name: str) -> None:
    function, arguments = batched(name)
    transformed = vmap(grad(scalar(function)))
    compiled = torch.compile(transformed, backend="aot_eager", fullgraph=True)
    assert_same(compiled(*arguments), transformed(*arguments))


def test_traced() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    step = grad(lambda x: ops.softmax_focal_loss(x, TARGETS[0].clamp_min(0)))
    x = logits(6, CLASSES, dtype=F64)
    assert_same(make_fx(step)(x)(x), step(x))
