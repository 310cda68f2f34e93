"""Opens a trained model for a site's scans, and measures its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asdnet_models.fields import Frozen
from asdnet_models.inference.predictor import SegmentationModel
from asdnet_models.model_files import read_model_files
from protocol.config.study import StudyProtocol
from protocol.model_io import model_digest, study_of

# A voxel below is counted, and shown, as one to look at.  It is a convention of this command, not
# of the study: gamma is what training may trust, and was not chosen for display.
LOW_CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model, ready on its device.

    Attributes:
        protocol: The study that it was trained in.
        networks: What predicts.
        sha256: Of the file of its weights.
        protocol_sha256: Of the protocol as it was saved.
    """

    protocol: StudyProtocol
    networks: SegmentationModel
    sha256: str
    protocol_sha256: str

    @property
    def title(self) -> str:
        """The study's name and the first digits of the weights' digest."""
        return f"{self.protocol.name} {self.sha256[:12]}"


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
    if threads:
        torch.set_num_threads(threads)
    files = read_model_files(folder)
    protocol = study_of(files)
    return Model(
        protocol=protocol,
        networks=SegmentationModel.from_files(files, protocol, device),
        sha256=model_digest(folder),
        protocol_sha256=files.protocol_sha256,
    )


def measure(
    label_zyx: NDArray[np.uint8],
    confidence_zyx: NDArray[np.float32],
    spacing_mm_xyz: Sequence[float],
    organs: Mapping[str, int],
) -> dict[str, OrganMeasures]:
    """Volume and confidence of every organ.

    Args:
        label_zyx: A predicted label map.
        confidence_zyx: On the same grid, in [0, 1].
        spacing_mm_xyz: Of that grid.
        organs: Value of each organ in the label map.
    """
    voxel_ml = float(np.prod(spacing_mm_xyz)) / 1000.0
    measures = {}
    for organ, value in organs.items():
        inside = confidence_zyx[label_zyx == value]
        measures[organ] = OrganMeasures(
            value=value,
            volume_ml=inside.size * voxel_ml,
            mean_confidence=float(inside.mean(dtype=np.float64)) if inside.size else None,
            low_confidence_share=float((inside < LOW_CONFIDENCE).mean()) if inside.size else None,
        )
    return measures
