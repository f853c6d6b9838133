"""detectron2's RetinaNet (https://github.com/facebookresearch/detectron2) over the ops: its targets, losses and
inference, and the functions that they are made of, with its names, arguments, labels and return types.

A model of detectron2's needs one line::

    from retinanet_fast.compat.detectron2 import accelerate_retinanet
    model = accelerate_retinanet(build_model(cfg))       # a built RetinaNet, or a subclass

or, as a class of its own::

    from retinanet_fast.compat.detectron2 import RetinaNetMixin
    @META_ARCH_REGISTRY.register()
    class FastRetinaNet(RetinaNetMixin, RetinaNet): ...   # MODEL.META_ARCHITECTURE = "FastRetinaNet"

=====================================================  ===============================================================
your import                                            ours, ``from retinanet_fast.compat.detectron2 import ...``
=====================================================  ===============================================================
``detectron2.modeling.meta_arch.retinanet.RetinaNet``  ``RetinaNetMixin``, ``accelerate_retinanet``
its ``label_anchors``, ``losses``, ``inference``       ``label_anchors``, ``retinanet_losses``, ``retinanet_inference``
``detectron2.modeling.matcher.Matcher``                ``Matcher``
``detectron2.modeling.box_regression``                 ``Box2BoxTransform``
``detectron2.modeling.anchor_generator``               ``DefaultAnchorGenerator``
``detectron2.layers.nms, batched_nms``                 ``nms``, ``batched_nms``
``detectron2.structures.pairwise_iou``                 ``pairwise_iou``
=====================================================  ===============================================================

Labels are detectron2's throughout: background K, ignored -1. (The ops have -1 and -2.)
"""

from retinanet_fast.compat.detectron2.anchors import DefaultAnchorGenerator
from retinanet_fast.compat.detectron2.boxes import Box2BoxTransform, batched_nms, nms, pairwise_iou
from retinanet_fast.compat.detectron2.inference import retinanet_inference
from retinanet_fast.compat.detectron2.losses import LossNormalizer, retinanet_losses
from retinanet_fast.compat.detectron2.matcher import Matcher, label_anchors
from retinanet_fast.compat.detectron2.retinanet import RetinaNetMixin, accelerate_retinanet
from retinanet_fast.compat.detectron2.structures import Boxes

__all__ = [
    "Box2BoxTransform",
    "Boxes",
    "DefaultAnchorGenerator",
    "LossNormalizer",
    "Matcher",
    "RetinaNetMixin",
    "accelerate_retinanet",
    "batched_nms",
    "label_anchors",
    "nms",
    "pairwise_iou",
    "retinanet_inference",
    "retinanet_losses",
]
