"""A trained model on one scan: a label map and a confidence map on the scan's own grid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asdnet_models.config import Frozen
from asdnet_models.inference.sliding_window import segment_volume, trust_volume
from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.preprocessing import preprocess_image
from client.training.evaluation import labels_on_scan
from client.training.round import load_wire_weights
from protocol.config.study import StudyProtocol
from protocol.model_io import (
    ModelFileError,
    load_model,
    model_digest,
    saved_protocol_digest,
)
from protocol.wire.weights import Weights

# A voxel below is counted, and shown, as one to look at.  It is a convention of this command, not
# of the study: gamma says what training may trust, and was not chosen for a reader's eye.
LOW_CONFIDENCE = 0.8


class DeviceError(ValueError):
    """A device that is not there."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model, ready on its device.

    Attributes:
        protocol: The study that it was trained in.
        segmenter: S.
        confidence: D; None where the study trained none.
        sha256: Of the file of its weights.
        protocol_sha256: Of the protocol as it was saved.
    """

    protocol: StudyProtocol
    segmenter: nn.Module
    confidence: nn.Module | None
    sha256: str
    protocol_sha256: str

    @property
    def confidence_map(self) -> str:
        """What the confidence map of this model is, in words."""
        return "maximum softmax" if self.confidence is None else "confidence network"

    @property
    def title(self) -> str:
        """The study's name and the first digits of the weights' digest."""
        return f"{self.protocol.name} {self.sha256[:12]}"


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What a model says of one scan, on the scan's own grid, (Z, Y, X).

    Attributes:
        label_zyx: The study's label values; 0 is background.
        confidence_zyx: In [0, 1]; 0 where nothing was predicted, outside the study's grid.
    """

    label_zyx: NDArray[np.uint8]
    confidence_zyx: NDArray[np.float32]


class OrganMeasures(Frozen):
    """One organ of one case; confidence over its predicted voxels, None where there are none."""

    value: int
    volume_ml: float
    mean_confidence: float | None
    low_confidence_share: float | None


def open_model(folder: Path, device: str = "auto", threads: int = 0) -> Model:
    """A saved model on a device.

    Args:
        folder: Such as `model/best` of a run.
        device: auto, cpu, cuda or cuda:N.
        threads: CPU threads; 0 leaves them to PyTorch.

    Raises:
        FileNotFoundError: The folder holds no model.
        ModelFileError: Its files are damaged, of two studies, or of other networks.
        DeviceError: The device is not there.
    """
    place = torch_device(device)
    if threads:
        torch.set_num_threads(threads)
    protocol, segmenter, confidence = load_model(folder)
    grades = confidence is not None and protocol.method.trains_confidence
    return Model(
        protocol=protocol,
        segmenter=_ready(build_segmenter(protocol), segmenter, place, folder),
        confidence=_ready(build_confidence(protocol), confidence or {}, place, folder)
        if grades
        else None,
        sha256=model_digest(folder),
        protocol_sha256=saved_protocol_digest(folder),
    )


def torch_device(name: str) -> torch.device:
    """The device by its name; auto is the first GPU where there is one.

    Raises:
        DeviceError: Another name, or a GPU that this machine does not have.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    known = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if known is None:
        raise DeviceError(f"device {name!r}: is unknown; give auto, cpu, cuda or cuda:N")
    if name != "cpu" and int(known[1] or 0) >= count:
        raise DeviceError(
            f"device {name}: PyTorch sees {count} GPUs on this machine; give --device cpu, or"
            " install its driver and the build of PyTorch for it"
        )
    return torch.device(name)


def segment(model: Model, scan: sitk.Image, *, largest_component: bool) -> Segmentation:
    """Preprocess, predict and bring back to the scan's own grid.

    Args:
        model: A trained model.
        scan: As acquired, any orientation and spacing.
        largest_component: Keep one connected component an organ.
    """
    protocol = model.protocol
    image = preprocess_image(scan, protocol.spacing_mm)
    volume = torch.from_numpy(sitk.GetArrayFromImage(image).transpose(2, 1, 0).copy())[None, None]
    volume = volume.to(next(model.segmenter.parameters()).device)
    probabilities = segment_volume(model.segmenter, volume, protocol)
    confidence = _confidence(model, probabilities, volume)
    label = labels_on_scan(
        probabilities[0].cpu().numpy(), protocol, image, scan, largest_component=largest_component
    )
    return Segmentation(
        label_zyx=label,
        confidence_zyx=_on_scan(confidence[0, 0].cpu().numpy(), image, scan),
    )


def measure(
    segmentation: Segmentation, spacing_mm_xyz: Sequence[float], organs: Mapping[str, int]
) -> dict[str, OrganMeasures]:
    """Volume and confidence of every organ.

    Args:
        segmentation: On the scan's grid.
        spacing_mm_xyz: Of that grid.
        organs: Value of each organ in the label map.
    """
    voxel_ml = float(np.prod(spacing_mm_xyz)) / 1000.0
    measures = {}
    for organ, value in organs.items():
        found = segmentation.confidence_zyx[segmentation.label_zyx == value]
        measures[organ] = OrganMeasures(
            value=value,
            volume_ml=found.size * voxel_ml,
            mean_confidence=float(found.mean(dtype=np.float64)) if found.size else None,
            low_confidence_share=float((found < LOW_CONFIDENCE).mean()) if found.size else None,
        )
    return measures


def _ready(network: nn.Module, weights: Weights, device: torch.device, folder: Path) -> nn.Module:
    try:
        load_wire_weights(network, weights)
    except RuntimeError:
        raise ModelFileError(
            f"{folder}: its weights are not of the network that its protocol names; copy the"
            " whole folder again, or use the version of this software that made it"
        ) from None
    return network.to(device).eval()


def _confidence(model: Model, probabilities: Tensor, volume: Tensor) -> Tensor:
    """M, or the maximum softmax where there is no D, (1, 1, X, Y, Z) on the study's grid."""
    if model.confidence is None:
        return probabilities.amax(1, keepdim=True)
    return trust_volume(model.confidence, probabilities, volume, model.protocol)


def _on_scan(
    map_xyz: NDArray[np.float32], study_grid: sitk.Image, scan: sitk.Image
) -> NDArray[np.float32]:
    """A map on the study's grid, linearly on the scan's, (Z, Y, X); 0 outside."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(map_xyz.transpose(2, 1, 0)))
    image.CopyInformation(study_grid)
    resampled = sitk.Resample(image, scan, sitk.Transform(), sitk.sitkLinear, 0.0)
    on_scan: NDArray[np.float32] = np.clip(sitk.GetArrayFromImage(resampled), 0.0, 1.0)
    return on_scan
