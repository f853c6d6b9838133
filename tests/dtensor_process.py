"""One of two processes of test_dtensor.py: every op on shards against the same op on whole tensors."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # last: an installed package is not hidden

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

import retinanet_fast
from retinanet_fast import ops

ROWS, WHOLE = Shard(0), Replicate()


def check(
    op: Callable[..., Tensor], arguments: list[Tensor], placements: list[object], expected: object
) -> None:
    """The result and gradients of sharded `arguments` (an odd number of rows), and how the result is placed."""
    whole = [x.clone().requires_grad_(x.is_floating_point()) for x in arguments]
    result = op(*whole)
    weight = torch.linspace(1, 2, result.numel(), dtype=result.dtype).view(result.shape)
    (result * weight).sum().backward()

    parts = [
        distribute_tensor(x, MESH, [placement]).requires_grad_(x.is_floating_point())
        for x, placement in zip(arguments, placements, strict=True)
    ]
    found = op(*parts)
    assert isinstance(found, DTensor)
    assert str(found.placements[0]) == expected, (found.placements, expected)
    # Sums of a dozen float64 numbers in another order.
    torch.testing.assert_close(found.full_tensor(), result, rtol=1e-12, atol=1e-12)
    (found * distribute_tensor(weight, MESH, [WHOLE])).sum().backward()
    for part, x in zip(parts, whole, strict=True):
        if x.requires_grad:
            torch.testing.assert_close(part.grad.full_tensor(), x.grad, rtol=1e-12, atol=1e-12)


def main() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 4, dtype=torch.float64)
    soft, labels = torch.rand(7, 4, dtype=torch.float64), torch.randint(0, 4, (7,))
    boxes = torch.rand(7, 4, dtype=torch.float64) * 50
    boxes[:, 2:] += boxes[:, :2] + 1
    anchors = boxes + torch.rand(7, 4, dtype=torch.float64)
    for dim in (0, 1):
        shard = Shard(dim)
        check(ops.sigmoid_focal_loss, [x, soft], [shard, shard], f"S({dim})")
        check(lambda x, t: ops.sigmoid_focal_loss(x, t, reduction="sum"), [x, soft], [shard, shard], "P(sum)")
        check(lambda x, t: ops.sigmoid_focal_loss(x, t, reduction="mean"), [x, soft], [shard, shard], "R")
    check(ops.sigmoid_focal_loss, [x, labels], [ROWS, ROWS], "S(0)")
    for op in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        check(lambda x, t, op=op: op(x, t, reduction="none"), [x, labels], [ROWS, ROWS], "S(0)")
        check(lambda x, t, op=op: op(x, t, reduction="sum"), [x, labels], [ROWS, ROWS], "P(sum)")
        check(lambda x, t, op=op: op(x, t, reduction="mean"), [x, labels], [ROWS, ROWS], "R")
        # A row cannot be cut where its label counts: the logits are gathered.
        check(lambda x, t, op=op: op(x, t, reduction="sum"), [x, labels], [WHOLE, WHOLE], "R")
    check(ops.box_iou, [boxes, anchors[:5]], [ROWS, WHOLE], "S(0)")
    check(ops.box_iou, [boxes, anchors[:5]], [WHOLE, ROWS], "S(1)")
    check(ops.encode_boxes, [boxes, anchors], [ROWS, ROWS], "S(0)")
    check(ops.decode_boxes, [x, anchors], [ROWS, ROWS], "S(0)")

    part = distribute_tensor(boxes, MESH, [ROWS])
    for call in (
        lambda: ops.nms(part, part[:, 0], 0.5),
        lambda: ops.match_anchors(boxes, [part]),
        lambda: ops.batched_nms(part, part[:, 0], part[:, 1], 0.5),
    ):
        try:
            call()
        except NotImplementedError as error:
            assert "to_local" in str(error), error  # noqa: PT017
        else:
            raise AssertionError("a DTensor was taken")


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
    MESH = init_device_mesh("cpu", (2,))
    retinanet_fast.register_dtensor()
    main()
    dist.destroy_process_group()
