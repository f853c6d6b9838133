"""Weights for the models: where they may come from, the names they may carry, and what became of them.

``load``               puts weights into a model and reports what did not fit
``read``               state dicts, files and torchvision's published weights as one kind, ``Weights``
``numpy_pickle``       detectron2's ``.pkl`` files, by an unpickler that builds arrays and nothing else
``published``          the names of torchvision's weights enums
``names_torchvision``  ``names_detectron2``  ``names_mmdetection``: each library's names as today's
``preprocessing``      the images that weights were trained on: folded into the first convolution
``settings``           what weights need of their model and no tensor shows
"""

from retinanet_fast.models.weights.load import BODY, LoadReport, load_weights
from retinanet_fast.models.weights.names_torchvision import rename_old_keys
from retinanet_fast.models.weights.read import (
    Weights,
    WeightsEnum,
    WeightsSource,
    read_tensors,
    read_weights,
    settings_in,
)
from retinanet_fast.models.weights.settings import Settings, settings_of

__all__ = [
    "BODY",
    "LoadReport",
    "Settings",
    "Weights",
    "WeightsEnum",
    "WeightsSource",
    "load_weights",
    "read_tensors",
    "read_weights",
    "rename_old_keys",
    "settings_in",
    "settings_of",
]
