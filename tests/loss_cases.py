"""Head outputs for the tests of `retinanet_loss`, and their tolerances."""

from collections.abc import Callable

import torch
from cases import generator, random_boxes
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.structures import AnchorGrid

# A loss is a sum of many float32 terms, added in another order than the twin's; a term's error is a few units in
# the last place of float32 (float64) in both.
LOSS_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
# Relative to a level's largest gradient. Half types round each gradient once, to 2^-11 and 2^-8.
GRAD_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


class Head:
    """Outputs of a head for a batch of images, and what they are trained with."""

    def __init__(
        self,
        grid: AnchorGrid,
        gt_boxes: list[Tensor],
        classes: int = 3,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        layout: Callable[[int, Tensor], Tensor] = lambda level, x: x,
        seed: int = 0,
    ) -> None:
        rng = generator(seed)
        batch, per_cell = len(gt_boxes), grid.base_anchors.shape[1]

        def outputs(values: int, scale: float) -> list[Tensor]:
            shapes = [(batch, per_cell * values, *size) for size in grid.grid_sizes]
            drawn = [torch.randn(shape, generator=rng, dtype=torch.float64) * scale for shape in shapes]
            return [layout(level, x.to(device, dtype)) for level, x in enumerate(drawn)]

        self.grid = grid.to(device)
        self.logits = outputs(classes, 2.0)
        self.deltas = outputs(4, 0.3)
        self.gt_boxes = [boxes.to(device) for boxes in gt_boxes]
        self.gt_labels = [
            torch.randint(classes, (len(boxes),), generator=rng).to(device) for boxes in gt_boxes
        ]

    def losses(
        self, op: Callable[..., dict[str, Tensor]] = ops.retinanet_loss, **options: object
    ) -> dict[str, Tensor]:
        return op(self.logits, self.deltas, self.grid, self.gt_boxes, self.gt_labels, **options)

    def gradients(
        self,
        op: Callable[..., dict[str, Tensor]] = ops.retinanet_loss,
        scales: tuple[float, float] = (1.0, 1.0),
        **options: object,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The two losses, and the gradient of their weighted sum by every level's logits and deltas."""
        leaves = [*self.logits, *self.deltas]
        for leaf in leaves:
            leaf.requires_grad_()
        losses = list(self.losses(op, **options).values())
        total = scales[0] * losses[0] + scales[1] * losses[1]
        return losses, list(torch.autograd.grad(total, leaves))

    def assert_equals_reference(self, scales: tuple[float, float] = (1.0, 1.0), **options: object) -> None:
        losses, grads = self.gradients(scales=scales, **options)
        expected_losses, expected_grads = self.gradients(reference.retinanet_loss, scales, **options)
        for loss, expected in zip(losses, expected_losses, strict=True):
            assert loss.shape == ()
            tolerance = LOSS_TOLERANCE[loss.dtype]
            torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
        for leaf, grad, expected in zip([*self.logits, *self.deltas], grads, expected_grads, strict=True):
            assert grad.dtype == leaf.dtype
            # Half types have subnormal numbers of their own spacing.
            tolerance = (
                GRAD_TOLERANCE[leaf.dtype] * float(expected.abs().max()) + torch.finfo(leaf.dtype).tiny
            )
            torch.testing.assert_close(
                grad, expected, rtol=0, atol=tolerance, equal_nan=True, check_stride=False
            )


def boxes_of(*counts: int, size: float = 100.0) -> list[Tensor]:
    return [random_boxes(count, seed=seed, size=size) for seed, count in enumerate(counts)]


def channels_last(level: int, x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def mixed(level: int, x: Tensor) -> Tensor:
    return x if level % 2 else channels_last(level, x)
