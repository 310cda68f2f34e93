"""Semi-supervised segmentation of medical images with ASDNet: networks, losses, metrics, inference.

    from asdnet_models import load_model

    result = load_model("model/best").predict(SimpleITK.ReadImage("scan.nii.gz"))

Names are imported when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asdnet_models import class_maps, config, losses, methods, metrics, preprocessing
    from asdnet_models.config import ModelConfig
    from asdnet_models.inference.predictor import Segmentation, SegmentationModel, load_model
    from asdnet_models.networks import build_confidence, build_segmenter
    from asdnet_models.networks.confidence import ConfidenceCNN, ConfidenceFCN
    from asdnet_models.networks.dsresunet import DSResUNet
    from asdnet_models.networks.svnet import SVNet, VNet
    from asdnet_models.networks.unet import UNet

# The module that each name is of; a module's own name stands for itself.
_MODULES = {
    "ConfidenceCNN": "networks.confidence",
    "ConfidenceFCN": "networks.confidence",
    "DSResUNet": "networks.dsresunet",
    "ModelConfig": "config",
    "SVNet": "networks.svnet",
    "Segmentation": "inference.predictor",
    "SegmentationModel": "inference.predictor",
    "UNet": "networks.unet",
    "VNet": "networks.svnet",
    "build_confidence": "networks",
    "build_segmenter": "networks",
    "load_model": "inference.predictor",
}

__all__ = [
    "ConfidenceCNN",
    "ConfidenceFCN",
    "DSResUNet",
    "ModelConfig",
    "SVNet",
    "Segmentation",
    "SegmentationModel",
    "UNet",
    "VNet",
    "build_confidence",
    "build_segmenter",
    "class_maps",
    "config",
    "load_model",
    "losses",
    "methods",
    "metrics",
    "preprocessing",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_MODULES.get(name, name)}")
    return getattr(module, name) if name in _MODULES else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
