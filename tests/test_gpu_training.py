"""What only a GPU can show of training: no wait of the host, streams, captured steps, steps that the device leaves out.

The same without a GPU: test_packed_images.py, test_prefetch.py, test_graphed_step.py and test_optimizer.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from cases import needs_gpu
from torch import Tensor

pytest.importorskip("PIL", reason="the trainer needs pillow")

from step_cases import batch_of, run_of, weighted_losses

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.training.graphed import WARM_UP, GraphedStep
from retinanet_fast.engine.training.optimizer import apply, make_optimizer, set_learning_rate
from retinanet_fast.engine.training.prefetch import DevicePrefetcher
from retinanet_fast.engine.training.readback import Readback
from retinanet_fast.engine.training.step import TrainStep
from retinanet_fast.nn import DetectionTransform, pack_images
from retinanet_fast.nn.transform import IMAGENET_MEAN, IMAGENET_STD

pytestmark = needs_gpu
CUDA = torch.device("cuda")
precisions = pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """A wait of the host for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- a batch of raw images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("min_size", "max_size"), [(800, 1333), (64, 128)])
def test_a_packed_batch_is_the_transforms(count: int, min_size: int, max_size: int) -> None:
    transform = DetectionTransform(min_size, max_size, IMAGENET_MEAN, IMAGENET_STD)
    shapes = [(480, 640), (427, 640), (1, 333), (101, 77), (640, 33)][:count]
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *shape), generator=generator, dtype=torch.uint8) for shape in shapes]
    packed = pack_images(images, transform.batch_sizes(images)).pin_memory()
    transform(packed.to(CUDA))  # the first call allocates
    with no_synchronisation():
        found, _ = transform(packed.to(CUDA))
    expected, _ = transform([image.cuda().float() / 255 for image in images])
    # Values up to 2.7, rounded some times more; s is rounded alike on both sides (see resize_batch).
    torch.testing.assert_close(found.tensors, expected.tensors, rtol=0, atol=5e-6)
    assert found.tensors.is_contiguous(memory_format=torch.channels_last)


# ---- copies ------------------------------------------------------------------------------------------------------


def test_prefetched_batches_arrive_whole() -> None:
    """Though the stream that uses them is late, and their memory is used again."""
    made = [batch_of(number) for number in range(12)]
    pinned = [[batch.pin_memory()] for batch in made]
    expected = [batch.packed.pixels.long().sum() for batch in made if batch.packed is not None]
    sums = []
    torch.zeros(1, device=CUDA).long().sum()
    with no_synchronisation():
        for batches in DevicePrefetcher(iter(pinned), CUDA):
            packed = batches[0].packed
            assert packed is not None
            torch.cuda._sleep(2_000_000)
            sums.append(packed.pixels.long().sum())
            del packed, batches
    assert torch.equal(torch.stack(sums).cpu(), torch.stack(expected))


# ---- steps -------------------------------------------------------------------------------------------------------


def step_of(kind: type[TrainStep], precision: str = "float32", drop: float = 0.0) -> TrainStep:
    run = run_of("cuda", precision=precision)
    run.state.model.backbone.drop.p = drop  # type: ignore[union-attr]
    return kind(run, weighted_losses)


def batch_on_gpu(number: int, factor: float = 1.0, images: int = 2) -> Batch:
    batch = batch_of(number, images=images)
    batch.targets["factor"] = torch.tensor(factor)
    return batch.pin_memory()


@precisions
@pytest.mark.parametrize("kind", [TrainStep, GraphedStep], ids=["eager", "graph"])
def test_no_step_waits(kind: type[TrainStep], precision: str) -> None:
    step = step_of(kind, precision, drop=0.1)
    readback = Readback[int](CUDA)
    batches = [[batch_on_gpu(number)] for number in range(WARM_UP + 8)]
    source = DevicePrefetcher(iter(batches), CUDA)
    found = []

    def go(count: int) -> None:
        for _ in range(count):
            readback.push(step.run.state.step, step(next(source), 1e-3, (False, True)))
            step.run.state.step += 1
            found.extend(values for _, values in readback.due())

    go(WARM_UP + 2)
    with no_synchronisation():
        go(5)
    found.extend(values for _, values in readback.rest())
    table = torch.tensor(found)
    assert table.isfinite().all()
    assert table[:, 2:].tolist() == [[0.0, 0.0, 1.0]] * len(found)  # bad, and the two flags


def test_replays_are_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With batches of two shapes, raw images of all sizes, a rate and flags that change, and a step that is bad."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    plain, step = step_of(TrainStep), step_of(GraphedStep)
    for number in range(2 * (WARM_UP + 3)):
        factor = torch.nan if number == 8 else 1.0  # 8 is a replay
        batch = batch_on_gpu(number, factor, images=2 + number % 2).to(CUDA)
        flags = (number == 7, number == 9)
        before = [weight.clone() for weight in step.run.state.model.state_dict().values()]
        expected, found = (each([batch], 1e-3 * (number + 1), flags) for each in (plain, step))
        assert bool(found[2]) == (number == 8)
        # TF32 and atomics in torch's own kernels: the runs part slowly.
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, equal_nan=True)
        if number == 8:
            now = step.run.state.model.state_dict().items()
            changed = [name for (name, value), old in zip(now, before) if not torch.equal(value, old)]
            assert [name for name in changed if "num_batches_tracked" not in name] == []
        for each in (plain, step):
            each.run.state.step += 1
            each.stuck.zero_()


def test_each_replay_draws_anew() -> None:
    step = step_of(GraphedStep, drop=0.5)
    with torch.no_grad():  # as it starts, the head hardly depends on what it sees
        for weight in step.run.state.model.head.parameters():  # type: ignore[union-attr]
            weight.mul_(5)
    batch = batch_on_gpu(0).to(CUDA)
    losses = []
    for _ in range(WARM_UP + 3):
        losses.append(step([batch], 0.0)[0].item())
        step.run.state.step += 1
    assert len({*losses}) == len(losses)


@pytest.mark.slow
def test_a_compiled_network_is_captured() -> None:
    """Inductor compiles for a minute."""
    from retinanet_fast.engine.training.compiled import compile_network

    plain, run = step_of(TrainStep), run_of("cuda")
    run.state.model.backbone.drop.p = 0.0  # type: ignore[union-attr]
    compile_network(run.state.model, print)
    step = GraphedStep(run, weighted_losses)
    for number in range(WARM_UP + 3):
        batch = batch_on_gpu(number).to(CUDA)
        expected, found = plain([batch], 1e-3), step([batch], 1e-3)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)  # as above, and other sums


# ---- the optimizer -----------------------------------------------------------------------------------------------


def kept(run_state: Callable[[], list[Tensor]]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in run_state()]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("captured", [False, True], ids=["eager", "graph"])
def test_the_device_leaves_a_bad_step_out(name: str, captured: bool) -> None:
    run = run_of("cuda", optimizer=name)
    model = run.state.model
    optimizer = make_optimizer(run.recipe, model, CUDA)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    bad = torch.zeros((), device=CUDA)

    def tensors() -> list[Tensor]:
        return [*weights, *(tensor for state in optimizer.state.values() for tensor in state.values())]

    def step() -> None:
        apply(optimizer, weights, 1.0, bad)

    set_learning_rate(optimizer, 0.1)
    step()
    call: Callable[[], None] = step
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        call = graph.replay
    for flag in (1.0, 0.0):
        bad.fill_(flag)
        before = kept(tensors)
        with no_synchronisation():
            set_learning_rate(optimizer, 0.05)
            call()
        same = [torch.equal(a, b) for a, b in zip(before, tensors(), strict=True)]
        assert all(same) if flag else not any(same)
    weights[0].grad[0] = torch.nan  # type: ignore[index]
    before = kept(tensors)
    call()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(), strict=True))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_fused_step_is_the_cpus(name: str) -> None:
    runs = [run_of(device, optimizer=name) for device in ("cpu", "cuda")]
    steps = []
    for run in runs:
        weights = [weight for weight in run.state.model.parameters() if weight.requires_grad]
        for number, weight in enumerate(weights):
            generator = torch.Generator().manual_seed(number)
            weight.grad = torch.randn(weight.shape, generator=generator).to(run.device)
        for _ in range(3):
            apply(run.state.optimizer, weights, 1.0, torch.zeros((), device=run.device))
        steps.append(weights)
    for ours, theirs in zip(*steps, strict=True):
        # Gradients in two norms of float32, summed in other orders.
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-5, atol=1e-6)
