"""detectron2's RetinaNet with the fused ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from retinanet_fast.compat.detectron2.boxes import fast_transform
from retinanet_fast.compat.detectron2.inference import detect, retinanet_inference
from retinanet_fast.compat.detectron2.losses import loss_sums
from retinanet_fast.compat.detectron2.matcher import label_anchors
from retinanet_fast.compat.detectron2.structures import tensor_of

Model = TypeVar("Model", bound=nn.Module)
METHODS = ("label_anchors", "losses", "forward_inference", "inference_single_image")  # of the mixin


class RetinaNetMixin:
    """The four methods of detectron2's ``RetinaNet`` that this package computes faster; put it before that class.

    Inputs, outputs, labels and the ``loss_normalizer`` are the original's, and every setting is read from the model's
    own attributes, so that configurations and checkpoints stay as they are. ``forward_training`` and ``forward`` are
    detectron2's. What differs is said at :func:`label_anchors`, :func:`retinanet_losses` and
    :func:`retinanet_inference`. ``forward_inference`` treats the batch at once and does not call
    ``inference_single_image``: a subclass that changes that one calls it from its own ``forward_inference``.
    """

    num_classes: int
    anchor_generator: Any
    anchor_matcher: Any
    box2box_transform: Any
    focal_loss_alpha: float
    focal_loss_gamma: float
    smooth_l1_beta: float
    box_reg_loss_type: str
    test_score_thresh: float
    test_topk_candidates: int
    test_nms_thresh: float
    max_detections_per_image: int

    @torch.no_grad()
    def label_anchors(
        self, anchors: Sequence[Any], gt_instances: Sequence[Any]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """``gt_labels`` and ``matched_gt_boxes`` of each image, from ``Boxes`` per level and ``Instances`` per image
        with ``gt_boxes`` and ``gt_classes``."""
        return label_anchors(
            anchors,
            [instances.gt_boxes for instances in gt_instances],
            [instances.gt_classes for instances in gt_instances],
            self.num_classes,
            self.anchor_matcher,
        )

    def losses(
        self,
        anchors: Sequence[Any],
        pred_logits: Sequence[Tensor],
        gt_labels: Sequence[Tensor],
        pred_anchor_deltas: Sequence[Tensor],
        gt_boxes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """``{"loss_cls", "loss_box_reg"}``; ``loss_normalizer`` makes a step, and ``num_pos_anchors`` is logged."""
        from detectron2.utils.events import get_event_storage

        loss_cls, loss_box_reg, num_pos_anchors = loss_sums(
            anchors,
            pred_logits,
            gt_labels,
            pred_anchor_deltas,
            gt_boxes,
            self.num_classes,
            self.focal_loss_alpha,
            self.focal_loss_gamma,
            self.smooth_l1_beta,
            self.box_reg_loss_type,
            fast_transform(self.box2box_transform),
        )
        get_event_storage().put_scalar("num_pos_anchors", num_pos_anchors / len(gt_labels))
        normalizer = self._ema_update("loss_normalizer", max(num_pos_anchors, 1), 100)  # type: ignore[attr-defined]
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def forward_inference(
        self, images: Any, features: Sequence[Tensor], predictions: Sequence[Sequence[Tensor]]
    ) -> list[Any]:
        """One ``Instances`` per image, with ``pred_boxes``, ``scores`` and ``pred_classes``."""
        pred_logits, pred_anchor_deltas = predictions
        results = retinanet_inference(
            pred_logits,
            pred_anchor_deltas,
            self.anchor_generator(features),
            num_classes=self.num_classes,
            test_score_thresh=self.test_score_thresh,
            test_topk_candidates=self.test_topk_candidates,
            test_nms_thresh=self.test_nms_thresh,
            max_detections_per_image=self.max_detections_per_image,
            box2box_transform=fast_transform(self.box2box_transform),
        )
        return [_instances(size, result) for size, result in zip(images.image_sizes, results)]

    def inference_single_image(
        self,
        anchors: Sequence[Any],
        box_cls: Sequence[Tensor],
        box_delta: Sequence[Tensor],
        image_size: tuple[int, int],
    ) -> Any:
        """The ``Instances`` of one image, from scores ``[R_l, K]`` (probabilities) and deltas ``[R_l, 4]``."""
        # Each row of a level as a cell with one anchor.
        results = detect(
            [(scores[None, :, None], deltas[None, :, None]) for scores, deltas in zip(box_cls, box_delta)],
            [tensor_of(level) for level in anchors],
            self.num_classes,
            None,
            self.test_score_thresh,
            self.test_topk_candidates,
            self.test_nms_thresh,
            self.max_detections_per_image,
            fast_transform(self.box2box_transform),
        )
        return _instances(image_size, results[0])


def accelerate_retinanet(model: Model) -> Model:
    """A built ``RetinaNet`` of detectron2's with :class:`RetinaNetMixin` before its class; the same object.

    Parameters, settings and checkpoints are not touched.

    Raises:
        TypeError: a model without detectron2's RetinaNet's attributes, or a subclass with its own form of one of the
            mixin's methods, which would be lost: it is named, and the model left as it was.
    """
    if isinstance(model, RetinaNetMixin):
        return model
    needed = (*RetinaNetMixin.__annotations__, "_ema_update", *METHODS)
    missing = [name for name in needed if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"accelerate_retinanet: expected a RetinaNet of detectron2's, got {type(model).__name__} "
            f"without {', '.join(missing)}"
        )
    original = type(model)
    if own := [name for name in METHODS if not getattr(original, name).__module__.startswith("detectron2.")]:
        raise TypeError(
            f"accelerate_retinanet: expected detectron2's own {', '.join(own)}, got those of {original.__name__}; "
            "put RetinaNetMixin into its bases, in front of RetinaNet, to have them stand before the mixin's"
        )
    model.__class__ = type(original.__name__, (RetinaNetMixin, original), {"__module__": original.__module__})
    return model


def _instances(image_size: tuple[int, int], result: dict[str, Tensor]) -> Any:
    from detectron2.structures import Boxes, Instances

    fields = {**result, "pred_boxes": Boxes(result["pred_boxes"])}
    return Instances(image_size, **fields)
