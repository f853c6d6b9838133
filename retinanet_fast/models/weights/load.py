"""Puts weights into a model, and says what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from retinanet_fast.models.weights.read import WeightsSource, read_weights
from retinanet_fast.models.weights.state import BBOX_REG, BODY, CLS_LOGITS, Weights
from retinanet_fast.nn import AnchorGenerator
from retinanet_fast.nn.transform import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["BODY", "LoadReport", "load_weights"]

SHOWN_NAMES = 3
# The background's logit where the weights have none: a score of 2e-9.
BACKGROUND_LOGIT = -20.0


@dataclass(frozen=True)
class LoadReport:
    """What became of weights: ``str()`` says it in one line.

    Attributes:
        loaded: tensors of the model that were given their values.
        missing: tensors of the model that the weights lack: they stay as they were.
        unused: tensors of the weights that the model lacks.
        other_shape: tensors that both have, with the two shapes, and that were not taken.
        notes: what was changed in the weights, what no tensor shows, and what is left to do.
    """

    loaded: list[str]
    missing: list[str]
    unused: list[str]
    other_shape: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model was given its value, and every one of the weights was used."""
        return not (self.missing or self.unused or self.other_shape)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += _listed("missing", self.missing)
        parts += _listed("not used", self.unused)
        return "; ".join(parts + _listed("of another shape", self.other_shape) + self.notes)


def load_weights(
    model: nn.Module,
    weights: WeightsSource,
    *,
    strict: bool = True,
    frozen_eps: float | None = None,
    caffe_style: bool | None = None,
    progress: bool = True,
) -> LoadReport:
    """Give a model its weights, and say what was not used or is missing.

    The names of these are known, and their layout is turned into ours:

    - torchvision's RetinaNet, today's and those of before 0.13, which its published v1 file has. A classifier's names,
      which lack ``backbone.body.``, are taken for those of the detector's ResNet.
    - detectron2's RetinaNet and ResNets, ``.pkl`` or ``.pth``: the anchors of a cell change places, BGR images and the
      missing standard deviation of its MSRA ResNets are folded into the first convolution, and the stride of the
      model's bottlenecks goes to their 1x1 convolutions.
    - mmdetection's RetinaNet, of versions 2 and 3, ``.pth``: the model's ReLU between P6 and P7 is switched off, and a
      ResNet of ``style="caffe"`` is treated as detectron2's.

    The last two have no background: where the model has room for one class more, class ``c`` of the file becomes
    ``c + 1``, as in torchvision's models, and the background's score is 0. Their anchors are not rounded; a builder
    that is given the file makes them so, and ``retinanet_anchor_generator(exact=True)`` does.

    A state dict may be wrapped, as ``{"model": ...}`` or ``{"state_dict": ...}``, and each name may begin with
    ``module.``. Files cannot run code: see :func:`~retinanet_fast.models.weights.read_tensors`.

    Args:
        model: a RetinaNet, or any module with the same names.
        weights: a state dict, the path of a file that holds one, or torchvision's published weights, which alone may be
            downloaded: a member of a torchvision weights enum, or its name with the enum's, such as
            ``"RetinaNet_ResNet50_FPN_Weights.COCO_V1"``.
        strict: refuse weights that do not fill the model or are not all used. Otherwise take the tensors whose
            name and shape fit.
        frozen_eps: the eps of the model's frozen batch norms. By default 0 for torchvision's published RetinaNet v1
            file, which is known by its SHA-256, that of the run for a checkpoint of ``retinanet-fast``, 1e-5 for
            detectron2's and mmdetection's, and else what the model has.
        caffe_style: whether detectron2's or mmdetection's ResNet is of Caffe's kind: BGR images of 0 to 255 and the
            stride in the 1x1 convolutions. By default what the file says; where it says nothing, so for detectron2's,
            as in its model zoo, but not for a ResNeXt or mmdetection's. The report says what was taken.
        progress: show the progress of a download.

    Returns:
        Which tensors were loaded, missing, not used or of another shape, and notes. Counters of batches
        (``num_batches_tracked``) do not count as either.

    Raises:
        FileNotFoundError: no such file.
        ValueError: published weights that torchvision does not have, a file that holds no state dict or a model that
            differs from ours in what it computes, or, if strict, weights that do not fit, which are named.
    """
    found = read_weights(weights, progress, caffe_style=caffe_style)
    expected = model.state_dict()
    state, notes = _with_background(found, expected)
    fitting: dict[str, Tensor] = {}
    unused, other_shape = [], []
    for given, tensor in state.items():
        name = given if given in expected else BODY + given
        if name not in expected:
            unused.append(given)
        elif tensor.shape != expected[name].shape:
            other_shape.append(f"{given} {list(tensor.shape)}, expected {list(expected[name].shape)}")
        else:
            fitting[name] = tensor
    seen = {name for given in state for name in (given, BODY + given)}
    report = LoadReport(
        loaded=list(fitting),
        missing=[name for name in expected if name not in seen and not _is_counter(name)],
        unused=[name for name in unused if not _is_counter(name)],
        other_shape=other_shape,
        notes=notes,
    )
    if strict and not report.complete:
        raise ValueError(f"{found.source}: weights of another model: {report}")
    model.load_state_dict(fitting, strict=False)
    settings = found.settings if frozen_eps is None else found.settings._replace(frozen_eps=frozen_eps)
    report.notes.extend(settings.apply(model) + _differences(found, model))
    return report


def _with_background(found: Weights, expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state with a class 0 that is never detected, if the weights lack it and the model has it; and notes."""
    state, notes = dict(found.state), list(found.notes)
    name, boxes = f"{CLS_LOGITS}bias", f"{BBOX_REG}bias"
    if found.background or not {name, boxes} <= state.keys() & expected.keys():
        return state, notes
    num_anchors = state[boxes].numel() // 4
    more = expected[name].numel() - state[name].numel()
    if more == 0:
        return state, [*notes, "labels are its classes, from 0"]
    if more != num_anchors:
        return state, notes
    for key, fill in ((name, BACKGROUND_LOGIT), (f"{CLS_LOGITS}weight", 0.0)):
        if key in state:
            classes = state[key].unflatten(0, (num_anchors, -1))
            background = torch.full_like(classes[:, :1], fill)
            state[key] = torch.cat((background, classes), dim=1).flatten(0, 1)
    return state, [*notes, "labels are its classes from 1; 0 is the background"]


def _differences(found: Weights, model: nn.Module) -> list[str]:
    """What the weights of another library need of anchors and images, where the model has them otherwise."""
    notes = []
    anchors, transform = getattr(model, "anchor_generator", None), getattr(model, "transform", None)
    if found.exact_anchors and isinstance(anchors, AnchorGenerator) and not anchors.is_exact:
        notes.append(
            "trained with anchors that are not rounded, unlike the model's: build it with "
            "anchor_generator=nn.retinanet_anchor_generator(exact=True), or with the file as its weights"
        )
    images = None if transform is None else (tuple(transform.image_mean), tuple(transform.image_std))
    if not found.background and images not in (None, (IMAGENET_MEAN, IMAGENET_STD)):
        notes.append(f"for image_mean={IMAGENET_MEAN} and image_std={IMAGENET_STD}, unlike the model's")
    return notes


def _is_counter(name: str) -> bool:
    """Whether a tensor counts batches: a trained batch norm has it, a frozen one does not, and neither needs it."""
    return name.endswith("num_batches_tracked")


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    rest = ", ..." if len(names) > SHOWN_NAMES else ""
    return [f"{len(names)} {what} ({', '.join(names[:SHOWN_NAMES])}{rest})"]
