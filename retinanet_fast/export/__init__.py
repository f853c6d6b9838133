"""Detectors as files for other programs: ``torch.export``, AOTInductor and ONNX.

``export_model``       writes a model's evaluation to a file
``load_exported``      runs such a file
``compare``            how far two models' detections are apart
``onnx_translations``  the ops in ONNX's standard operators, for ``torch.onnx.export`` of a model of your own
"""

from retinanet_fast.export.check import BOX_BOUND, SCORE_BOUND, Agreement, compare
from retinanet_fast.export.formats import FORMATS, export_model, load_exported
from retinanet_fast.export.onnx_table import onnx_translations

__all__ = [
    "BOX_BOUND",
    "FORMATS",
    "SCORE_BOUND",
    "Agreement",
    "compare",
    "export_model",
    "load_exported",
    "onnx_translations",
]
