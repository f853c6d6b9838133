"""``accelerate`` on torchvision's detectors: results beside those of the same model without it."""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

torchvision = pytest.importorskip("torchvision", reason="torchvision is not importable here")

from torchvision.models import detection  # noqa: E402
from torchvision.models.detection import anchor_utils, retinanet  # noqa: E402
from torchvision_models import (  # noqa: E402
    CHANNELS,
    NUM_CLASSES,
    SIZES,
    batch,
    detect,
    retinanet_v2,
    run,
    spread,
    tiny_faster_rcnn,
    tiny_fcos,
    tiny_retinanet,
    tiny_ssd,
)

import retinanet_fast  # noqa: E402
from retinanet_fast import accelerate, ops  # noqa: E402
from retinanet_fast.acceleration import report  # noqa: E402
from retinanet_fast.acceleration.head_levels import HeadLevels  # noqa: E402

Model = Any
Make = Callable[[], Model]


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    """Each warning of accelerate must be expected by name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="retinanet_fast.accelerate")
        yield


def smooth_l1() -> Model:
    model: Model = tiny_retinanet()
    model.head.regression_head._loss_type = "smooth_l1"
    return model


class PlainBackbone(nn.Module):
    """One level, as a bare tensor."""

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 9, stride=8, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


def plain_backbone() -> Model:
    torch.manual_seed(0)
    anchors = anchor_utils.AnchorGenerator(((16, 24),), ((0.5, 1.0),))
    return spread(retinanet.RetinaNet(PlainBackbone(), NUM_CLASSES, anchor_generator=anchors, **SIZES))


class AnchorsOfTheirOwn(anchor_utils.AnchorGenerator):
    """Moves the anchors of image i by 3 i pixels."""

    def forward(self, image_list: Any, feature_maps: Any) -> list[Tensor]:
        return [boxes + 3 * image for image, boxes in enumerate(super().forward(image_list, feature_maps))]


def anchors_per_image() -> Model:
    model: Model = tiny_retinanet()
    model.anchor_generator = AnchorsOfTheirOwn(
        model.anchor_generator.sizes, model.anchor_generator.aspect_ratios
    )
    return model


def new_head() -> Any:
    torch.manual_seed(3)
    head = retinanet.RetinaNetClassificationHead(CHANNELS, 6, 3, prior_probability=0.2)
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return head


RETINANETS = (tiny_retinanet, retinanet_v2, smooth_l1, plain_backbone, anchors_per_image)


def same_results(got: Model, want: Model, dtype: torch.dtype = torch.float64) -> None:
    """Losses and gradients of ``got`` are those of ``want``, in float64."""
    losses, gradients = run(got, dtype)
    expected_losses, expected = run(want, dtype)
    for name, loss in expected_losses.items():
        # Sums of some 10,000 terms in another order.
        torch.testing.assert_close(losses[name], loss, rtol=1e-12, atol=0)
    assert gradients.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        # The same convolutions backwards from head gradients that differ by roundings, 2^-53 of the terms.
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-13 * largest, msg=name)


def same_detections(got: Model, want: Model, dtype: torch.dtype = torch.float32, images: int = 3) -> None:
    found, expected = detect(got, dtype, images), detect(want, dtype, images)
    assert sum(len(image["scores"]) for image in expected) > 20
    for ours, theirs in zip(found, expected, strict=True):
        assert list(ours) == list(theirs)
        assert torch.equal(ours["labels"], theirs["labels"])
        for name, tolerance in (("scores", 2e-7), ("boxes", 4e-5)):
            # torchvision's float32: sigmoid, and five operations on coordinates up to 64, whose rounding is 4e-6.
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("make", RETINANETS)
def test_losses_and_gradients(make: Make) -> None:
    model = make().double()
    before = copy.deepcopy(model)
    assert accelerate(model) is model
    losses, _ = run(model, torch.float64)
    assert all("RetinanetLoss" in _op_of(loss) for loss in losses.values())
    same_results(model, before)


def _op_of(loss: Tensor) -> str:
    """The names of the last nodes of the graph: a mean over images follows the op."""
    names, nodes = "", [loss.grad_fn]
    for _ in range(5):
        names += "".join(node.name() for node in nodes)
        nodes = [parent for node in nodes for parent, _ in node.next_functions if parent is not None]
    return names


@pytest.mark.parametrize("make", RETINANETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_detections(make: Make, dtype: torch.dtype) -> None:
    model = make().to(dtype)
    before = copy.deepcopy(model)
    same_detections(accelerate(model), before, dtype)


def test_half_types_under_autocast() -> None:
    model = accelerate(tiny_retinanet())
    with torch.autocast("cpu", torch.bfloat16):
        accelerate(model, verify=batch())
        (image, *_) = detect(model)
    assert image["boxes"].dtype == image["scores"].dtype == torch.float32


@pytest.mark.parametrize("after", [False, True])
def test_a_replaced_classification_head(after: bool) -> None:
    model, before = tiny_retinanet().double(), tiny_retinanet().double()
    for changed in (model, before):
        if not after or changed is before:
            changed.head.classification_head = new_head().double()
    accelerate(model)
    if after:
        model.head.classification_head = new_head().double()
    few = {"labels": torch.tensor([1, 2])}, {"labels": torch.tensor([0])}, {}
    images, targets = batch(torch.float64)
    targets = [{**target, **labels} for target, labels in zip(targets, few, strict=True)]
    for ours, theirs in zip(model(images, targets).values(), before(images, targets).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    same_detections(model, before, torch.float64)


class ScaledHead(retinanet.RetinaNetClassificationHead):
    def forward(self, x: list[Tensor]) -> Tensor:
        return super().forward(x) * 0.5


def test_a_head_of_ones_own_after_acceleration() -> None:
    models = [tiny_retinanet().double() for _ in range(2)]
    accelerate(models[0])
    for model in models:
        model.head.classification_head.__class__ = ScaledHead
    same_results(*models)
    same_detections(*models, torch.float64)


def test_options_are_read_when_it_runs() -> None:
    models = [tiny_retinanet().double() for _ in range(2)]
    accelerate(models[0])
    for model in models:
        model.score_thresh, model.nms_thresh, model.detections_per_img, model.topk_candidates = (
            0.2,
            0.3,
            10**9,
            60,
        )
        model.proposal_matcher.high_threshold, model.proposal_matcher.low_threshold = 0.6, 0.3
        model.proposal_matcher.allow_low_quality_matches = False
        model.head.regression_head.box_coder.weights = (10.0, 10.0, 5.0, 5.0)
        model.box_coder.weights = (2.0, 2.0, 1.0, 1.0)
    same_results(*models)
    same_detections(*models, torch.float64)


# --- what is left


class OwnLoss(retinanet.RetinaNet):
    def compute_loss(self, targets: Any, head_outputs: Any, anchors: Any) -> Any:
        assert isinstance(head_outputs["cls_logits"], Tensor)
        return {name: 2 * loss for name, loss in super().compute_loss(targets, head_outputs, anchors).items()}


class OwnForward(retinanet.RetinaNet):
    def forward(self, images: Any, targets: Any = None) -> Any:
        return super().forward(images, targets)


class OwnHeadLoss(retinanet.RetinaNetClassificationHead):
    def compute_loss(self, targets: Any, head_outputs: Any, matched_idxs: Any) -> Tensor:
        return super().compute_loss(targets, head_outputs, matched_idxs) * 3


class OwnCoder(retinanet.det_utils.BoxCoder):
    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        return super().decode_single(rel_codes, boxes) + 1


class OwnMatcher(retinanet.det_utils.Matcher):
    def __call__(self, quality: Tensor) -> Tensor:
        return super().__call__(quality / 2)


def _own_loss(model: Model) -> None:
    model.__class__ = OwnLoss


def _own_forward(model: Model) -> None:
    model.__class__ = OwnForward


def _own_head_loss(model: Model) -> None:
    model.head.classification_head.__class__ = OwnHeadLoss


def _own_coder(model: Model) -> None:
    model.box_coder.__class__ = OwnCoder


def _own_clip(model: Model) -> None:
    model.box_coder.bbox_xform_clip = 0.1


def _own_matcher(model: Model) -> None:
    model.proposal_matcher.__class__ = OwnMatcher


def _own_loss_type(model: Model) -> None:
    model.head.regression_head._loss_type = "diou"


def _on_the_instance(model: Model) -> None:
    own = model.postprocess_detections
    model.postprocess_detections = lambda *args: own(*args)[::-1]


LEFT = [
    (_own_loss, "model: OwnLoss.compute_loss: OwnLoss.compute_loss is not torchvision's own"),
    (_own_forward, "head: RetinaNetHead.forward: the model, a OwnForward, has its own forward"),
    (_own_head_loss, "head.classification_head is a OwnHeadLoss with its own compute_loss"),
    (_own_coder, "postprocess_detections: box_coder is a OwnCoder with its own decode_single"),
    (_own_clip, "postprocess_detections: box_coder.bbox_xform_clip is 0.1, not log"),
    (_own_matcher, "compute_loss: proposal_matcher is a OwnMatcher with its own rule"),
    (_own_loss_type, "compute_loss: head.regression_head._loss_type is 'diou'"),
    (_on_the_instance, "model: RetinaNet.postprocess_detections: was set on the instance"),
]


@pytest.mark.parametrize(("change", "reason"), LEFT)
def test_what_is_overridden_is_named_and_left(change: Callable[[Model], None], reason: str) -> None:
    models = [tiny_retinanet().double() for _ in range(2)]
    for model in models:
        change(model)
    with pytest.warns(
        UserWarning, match="retinanet_fast.accelerate leaves the code of torchvision"
    ) as caught:
        accelerate(models[0])
    (message,) = {str(warning.message) for warning in caught}
    assert reason in message
    assert reason.split(": ")[-1] in str(report(models[0]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="retinanet_fast.accelerate: RetinaNet")
        same_results(*models)
        same_detections(*models, torch.float64)


@pytest.mark.parametrize("change", [_own_head_loss, _own_coder, _own_matcher, _own_loss_type])
def test_what_is_overridden_afterwards_is_obeyed_with_a_warning(change: Callable[[Model], None]) -> None:
    models = [tiny_retinanet().double() for _ in range(2)]
    accelerate(models[0])
    for model in models:
        change(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        same_results(*models)
        same_detections(*models, torch.float64)
    assert any("runs torchvision's code: " in str(warning.message) for warning in caught)


def test_a_loss_put_into_torchvisions_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retinanet, "sigmoid_focal_loss", lambda logits, targets, reduction: logits.sum())
    name = "torchvision.models.detection.retinanet.sigmoid_focal_loss is not torchvision's own"
    with pytest.warns(UserWarning, match=name):
        model = accelerate(tiny_retinanet().double())
    same_results(model, tiny_retinanet().double())


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("part", ["head", "head.regression_head"])
def test_hooks_on_the_head_find_tensors(part: str, after: bool) -> None:
    models = [tiny_retinanet().double() for _ in range(2)]
    if after:
        accelerate(models[0])
    seen: list[Any] = []
    for model in models:
        model.get_submodule(part).register_forward_hook(lambda *call: seen.append(call[-1]))
    if not after:
        with pytest.warns(UserWarning, match=r"head: RetinaNetHead.forward: head\S* has hooks"):
            accelerate(models[0])
    same_results(*models)
    tensors = [list(outputs.values()) if isinstance(outputs, dict) else [outputs] for outputs in seen]
    assert all(type(tensor) is Tensor for outputs in tensors for tensor in outputs)
    for ours, theirs in zip(*tensors, strict=True):
        assert torch.equal(ours, theirs)


def test_detections_with_gradients() -> None:
    models = [tiny_retinanet().double().eval() for _ in range(2)]
    accelerate(models[0])
    images, _ = batch(torch.float64)
    with pytest.warns(UserWarning, match="gradients are recorded"):
        scores = [torch.cat([image["scores"] for image in model(images)]).sum() for model in models]
    for score in scores:
        score.backward()
    assert torch.equal(models[0].backbone.down.weight.grad, models[1].backbone.down.weight.grad)


def test_a_head_called_by_itself_gives_what_stands_for_a_tensor() -> None:
    model, before = tiny_retinanet(), tiny_retinanet()
    accelerate(model)
    features = [torch.randn(2, CHANNELS, 5, 4), torch.randn(2, CHANNELS, 3, 2)]
    outputs, expected = model.head(features), before.head(features)
    for name, want in expected.items():
        got: Any = outputs[name]
        assert isinstance(got, HeadLevels)
        assert (got.size(1), got.shape, len(got)) == (want.size(1), want.shape, len(want))
        for ours, theirs in (
            (got[0], want[0]),
            (torch.sigmoid(got), want.sigmoid()),
            (2 - got * got, 2 - want * want),
        ):
            assert torch.equal(ours, theirs)
        assert all(
            map(torch.equal, got.split([7, want.shape[1] - 7], dim=1), want.split([7, want.shape[1] - 7], 1))
        )


# --- the object itself


def test_undo_and_repetition() -> None:
    model, other = tiny_retinanet(), tiny_retinanet()
    state = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    parameters = [id(parameter) for parameter in model.parameters()]
    kinds = [type(module) for module in model.modules()]
    keys = [set(vars(module)) for module in model.modules()]
    for _ in range(2):
        accelerate(model)
        assert isinstance(model, retinanet.RetinaNet)
        assert isinstance(model.head, retinanet.RetinaNetHead)
        assert type(model) is not retinanet.RetinaNet
    assert [set(vars(module)) for module in model.modules()] == keys
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == state
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert repr(model) == repr(other)
    assert [type(module) for module in other.modules()] == kinds
    for _ in range(2):
        assert accelerate(model, undo=True) is model
        assert [type(module) for module in model.modules()] == kinds
    assert "left as it is: not accelerated" in str(report(model))


def _deepcopy(model: Model) -> Model:
    return copy.deepcopy(model)


def _pickle(model: Model) -> Model:
    return pickle.loads(pickle.dumps(model))


def _save(model: Model) -> Model:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [_deepcopy, _pickle, _save])
@pytest.mark.parametrize("make", [tiny_retinanet, tiny_fcos])
def test_copies_are_accelerated(again: Callable[[Model], Model], make: Make) -> None:
    model = make()
    before = copy.deepcopy(model)
    accelerate(model)
    copied = again(model)
    assert [type(module) for module in copied.modules()] == [type(module) for module in model.modules()]
    assert str(report(copied)) == str(report(model))
    accelerate(copied, undo=True)
    assert type(copied) is type(before)
    assert type(model) is not type(before)
    assert all(map(torch.equal, copied.state_dict().values(), before.state_dict().values()))


def test_a_replica_of_data_parallel() -> None:
    model = accelerate(tiny_retinanet())
    replica = model._replicate_for_data_parallel()
    assert type(replica) is type(model)
    assert "compute_loss" not in vars(replica)


def test_in_other_modules() -> None:
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = tiny_retinanet(), tiny_ssd()

    task = accelerate(Task())
    text = str(report(task))
    assert "first: RetinaNet.compute_loss -> ops.retinanet_loss" in text
    assert "second: SSD.postprocess_detections -> ops.batched_nms" in text


def test_distributed_data_parallel(tmp_path: Path) -> None:
    if not torch.distributed.is_available():
        pytest.skip("torch has no torch.distributed here")
    models = [tiny_retinanet().double() for _ in range(2)]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(models[0])
        accelerate(wrapped, verify=batch(torch.float64))
        sum(wrapped(*batch(torch.float64)).values()).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert "module: RetinaNet.compute_loss -> ops.retinanet_loss" in str(report(wrapped))
    sum(models[1](*batch(torch.float64)).values()).backward()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        # As in same_results; of the gradient's largest value, since single ones cancel.
        assert (ours.grad - theirs.grad).abs().max() <= 1e-9 * theirs.grad.abs().max()


def test_torch_compile() -> None:
    torch.compiler.reset()
    model, before = tiny_retinanet(), tiny_retinanet()
    compiled = torch.compile(model, backend="eager")
    detect(compiled, images=1)  # traced with torchvision's methods, which must not be run again
    accelerate(compiled)
    same_detections(compiled, before, images=1)
    losses, gradients = run(compiled, images=1)
    assert all("RetinanetLoss" in _op_of(loss) for loss in losses.values())
    expected_losses, expected = run(before, images=1)
    for name, loss in expected_losses.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-6, atol=0)  # float32
    for name, gradient in expected.items():
        gap = (gradients[f"_orig_mod.{name}"] - gradient).abs().max()
        assert gap <= 1e-5 * gradient.abs().max(), name  # float32 through some layers


def test_torch_compile_of_a_rebound_method() -> None:
    torch.compiler.reset()
    compiled = torch.compile(accelerate(tiny_ssd()), backend="eager")
    equal_detections(compiled, tiny_ssd(), images=1)
    with ops_called() as called:
        detect(compiled, images=1)
    assert called == {"batched_nms"}


# --- the other families


@pytest.mark.parametrize(
    ("make", "lines"),
    [
        (
            tiny_fcos,
            ["FCOS.postprocess_detections -> ops.batched_nms", "FCOSHead.compute_loss -> ops.sigmoid_focal"],
        ),
        (tiny_ssd, ["model: SSD.postprocess_detections -> ops.batched_nms"]),
        (
            tiny_faster_rcnn,
            ["rpn: RegionProposalNetwork.filter_proposals", "roi_heads: RoIHeads.postprocess"],
        ),
    ],
)
def test_other_families(make: Make, lines: list[str]) -> None:
    model, before = make(), make()
    accelerate(model)
    assert all(line in str(report(model)) for line in lines)
    expected_losses, expected = run(before)
    with ops_called() as called:
        losses, gradients = run(model)
        detect(model)
    for name, loss in expected_losses.items():
        # The focal loss is a sum of float32 in another order; all else is computed by torchvision's code.
        rtol = 1e-6 if make is tiny_fcos and name == "classification" else 0
        torch.testing.assert_close(losses[name], loss, rtol=rtol, atol=0)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        # float32 through some layers; biases before a norm have no gradient but roundings.
        atol = 1e-6 * largest if make is tiny_fcos else 0
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=atol, msg=name)
    equal_detections(model, before)
    accelerate(model, verify=batch())
    assert "verified" in str(report(model))
    assert "verified" not in str(report(accelerate(model)))
    assert called == {"batched_nms", *(["sigmoid_focal_loss"] * (make is tiny_fcos))}


@contextmanager
def ops_called() -> Iterator[set[str]]:
    """The names of our ops that are called inside."""
    names: set[str] = set()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        yield names
    prefix = "retinanet_fast::"
    called = (event.key for event in profile.key_averages() if event.key.startswith(prefix))
    names.update(re.sub("_(backward|with_gradients?)$", "", name.removeprefix(prefix)) for name in called)


def equal_detections(got: Model, want: Model, images: int = 3) -> None:
    """To the bit."""
    found, expected = detect(got, images=images), detect(want, images=images)
    assert sum(len(image["scores"]) for image in expected) > 20
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("boxes", "scores", "labels"))


def test_a_focal_loss_keeps_float32_under_autocast() -> None:
    models = accelerate(tiny_fcos()), tiny_fcos()
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (run(model)[0]["classification"] for model in models)
    assert ours.dtype == theirs.dtype == torch.float32


# --- verify


def test_verify_prints_and_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    class Noisy(PlainBackbone):
        """Buffers that training changes, and what draws random numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(CHANNELS)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(self.norm(super().forward(x)), 0.5, self.training)

    model = plain_backbone()
    model.backbone = Noisy()
    model.train()
    model.backbone.norm.eval()
    model.head.requires_grad_(False)
    model.backbone.conv.weight.grad = marked = torch.ones_like(model.backbone.conv.weight)
    before, images_and_targets = copy.deepcopy(model), batch()
    random_state, cells = torch.get_rng_state(), model.anchor_generator.cell_anchors
    accelerate(model, verify=images_and_targets)
    printed = capsys.readouterr().out
    assert "model: RetinaNet.compute_loss -> ops.retinanet_loss" in printed
    assert "verified loss classification, relative" in printed
    assert "detections, without an equal 0 (" in printed
    assert str(report(model)) + "\n" == printed
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert model.backbone.conv.weight.grad is marked
    assert torch.equal(marked, torch.ones_like(marked))
    assert model.backbone.conv.bias.grad is None
    assert model.anchor_generator.cell_anchors is cells


def test_verify_by_images_alone(capsys: pytest.CaptureFixture[str]) -> None:
    accelerate(tiny_retinanet(), verify=batch()[0])
    printed = capsys.readouterr().out
    assert "score" in printed
    assert "gradient" not in printed


def _wrong_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ops.retinanet_loss
    monkeypatch.setattr(
        ops,
        "retinanet_loss",
        lambda *args, **options: {k: 1.01 * v for k, v in own(*args, **options).items()},
    )


def _wrong_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ops.retinanet_detect

    def moved(*args: Any, **options: Any) -> Any:
        found = own(*args, **options)
        found.boxes += 0.01
        return found

    monkeypatch.setattr(ops, "retinanet_detect", moved)


@pytest.mark.parametrize(
    ("plant", "line"),
    [
        (_wrong_loss, r"loss classification, relative 0\.01 \(tolerance 0\.0001\)  EXCEEDS IT"),
        (_wrong_boxes, r"detections, without an equal 1\.5e\+02 \(tolerance 1\.5\)  EXCEEDS IT"),
    ],
)
def test_verify_finds_a_planted_difference(
    plant: Callable[[pytest.MonkeyPatch], None], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    model = tiny_retinanet()
    with pytest.raises(ValueError, match=line):
        accelerate(model, verify=batch())
    assert type(model) is retinanet.RetinaNet
    assert type(model.head) is retinanet.RetinaNetHead


def test_verify_raises_what_the_model_raises_and_keeps_it() -> None:
    model = tiny_retinanet()
    images, targets = batch()
    targets[0]["boxes"][0, 2] = 0  # x2 < x1
    with pytest.raises(AssertionError, match="positive height and width"):
        accelerate(model, verify=(images, targets))
    assert type(model) is retinanet.RetinaNet


# --- errors


def test_verify_says_where_nothing_was_detected(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_retinanet()
    model.score_thresh = 1.0
    accelerate(model, verify=batch())
    assert "verified detections, of which this batch has none to compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verify", "message"),
    [
        (3, "expected verify as .images, targets. or images, lists as the model takes them, got int"),
        (torch.zeros(2, 3, 64, 64), "got Tensor"),
        (([torch.zeros(3, 64, 64)] * 2, [{}]), "expected verify with a target for each of 2 images, got 1"),
    ],
)
def test_a_batch_that_is_none_changes_nothing(verify: Any, message: str) -> None:
    model = accelerate(tiny_retinanet())
    kind = type(model)
    with pytest.raises(ValueError, match=message):
        accelerate(model, verify=verify)
    assert type(model) is kind


def test_errors() -> None:
    with pytest.raises(ValueError, match="no verify with undo=True"):
        accelerate(tiny_retinanet(), verify=batch(), undo=True)
    with pytest.raises(TypeError, match=r"found none in ResNet\. Supported are RetinaNet, FCOS, SSD"):
        accelerate(torchvision.models.resnet18(weights=None))
    model = accelerate(tiny_retinanet())
    images, targets = batch()
    targets[0]["labels"][0] = NUM_CLASSES
    with pytest.raises(IndexError, match="expected gt_labels in"):
        model(images, targets)


def test_a_second_derivative_is_an_error() -> None:
    model = accelerate(tiny_retinanet())
    loss = model(*batch())["classification"]
    (gradient,) = torch.autograd.grad(loss, [model.backbone.down.weight], create_graph=True)
    with pytest.raises(NotImplementedError, match="retinanet_loss"):
        gradient.sum().backward()


def test_ours_beside_theirs() -> None:
    ours = retinanet_fast.models.retinanet_resnet18_fpn(weights=None, weights_backbone=None, num_classes=2)
    both = accelerate(nn.ModuleList([ours, tiny_retinanet()]))
    assert "0: RetinaNet.forward left as it is: it is on the ops already" in str(report(both))


def test_a_class_made_from_ours_is_not_taken_away() -> None:
    model = accelerate(tiny_retinanet())
    model.__class__ = type("Sharded", (type(model),), {})
    assert "Sharded.compute_loss -> ops.retinanet_loss" in str(report(model))
    with pytest.raises(RuntimeError, match=r"got Sharded, which something \(fully_shard\?\) has made"):
        accelerate(model, undo=True)


def test_torchvisions_classes_are_as_before() -> None:
    accelerate(tiny_faster_rcnn())
    for cls, method in (
        (detection.RetinaNet, "compute_loss"),
        (detection.FCOS, "postprocess_detections"),
        (detection.rpn.RegionProposalNetwork, "filter_proposals"),
    ):
        function = getattr(cls, method)
        assert function.__globals__["__name__"] == function.__module__
