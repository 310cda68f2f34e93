"""A trained model on one scan: label map and confidence map on the scan's own grid."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from asdnet_models.config import InferenceConfig, ModelConfig
from asdnet_models.device import torch_device
from asdnet_models.geometry import usable_geometry
from asdnet_models.inference.sliding_window import segment_volume, trust_volume
from asdnet_models.model_files import PROTOCOL_FILE, ModelFileError, ModelFiles, read_model_files
from asdnet_models.networks import build_confidence, build_segmenter, load_weights
from asdnet_models.preprocessing import map_to_grid, preprocess_image, probabilities_to_grid


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A model's prediction of one scan, on the scan's own grid.

    Attributes:
        label: The study's values of the organs, 8 bits; 0 is background.
        confidence: In [0, 1], float32; 0 where nothing was predicted, outside the study's grid.
        probabilities: Background and the organs in the order of their values, (C, Z, Y, X), where
            they were asked for.
    """

    label: sitk.Image
    confidence: sitk.Image
    probabilities: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentationModel:
    """A trained model, ready on its device.

    Attributes:
        config: Its classes, grid, networks and inference.
        segmenter: S.
        confidence: D; None where the study trained none.
    """

    config: ModelConfig
    segmenter: nn.Module
    confidence: nn.Module | None

    @classmethod
    def from_files(cls, files: ModelFiles, config: ModelConfig, device: str) -> SegmentationModel:
        """The networks of this configuration with a saved model's weights, on a device.

        Raises:
            ModelFileError: The weights are of other networks.
            DeviceError: The device is not there.
        """
        on = torch_device(device)
        networks = [build_segmenter(config)]
        parts = [files.segmenter]
        if files.confidence is not None and config.method.trains_confidence:
            networks.append(build_confidence(config))
            parts.append(files.confidence)
        try:
            for network, weights in zip(networks, parts, strict=True):
                load_weights(network, weights)
        except RuntimeError:
            raise ModelFileError(
                f"{files.folder}: its weights are not of the network that its protocol names; copy"
                " the whole folder again, or use the version of this software that made it"
            ) from None
        ready = [network.to(on).eval() for network in networks]
        return cls(config=config, segmenter=ready[0], confidence=ready[1] if ready[1:] else None)

    @property
    def confidence_map(self) -> Literal["confidence network", "maximum softmax"]:
        """What the confidence map of this model is."""
        return "maximum softmax" if self.confidence is None else "confidence network"

    def predict(
        self,
        image: sitk.Image,
        *,
        largest_component: bool | Sequence[str] | None = None,
        probabilities: bool = False,
    ) -> Segmentation:
        """Preprocess, predict and bring back to the scan's own grid.

        Args:
            image: One scan as acquired, any orientation and spacing.
            largest_component: Keep the largest connected component alone, of all organs or of
                those named; None: as the model's study.
            probabilities: Give the classes' probabilities too.

        Raises:
            GeometryError: The image's geometry cannot be used.
            TypeError: It is no SimpleITK image.
            ValueError: It is not a volume of one channel with finite voxels that differ, or an
                organ is named that is none of the study.
        """
        organs = self.config.in_one_piece(largest_component)
        scan = usable_geometry(_scan_of(image))
        maps_xyz, trust_xyz, on_grid = self._on_study_grid(scan)
        label_zyx = labels_on_scan(maps_xyz, self.config, on_grid, scan, in_one_piece=organs)
        trust_zyx = map_to_grid(trust_xyz, on_grid, scan)
        return Segmentation(
            label=_like(image, label_zyx),
            confidence=_like(image, np.clip(trust_zyx, 0.0, 1.0, out=trust_zyx)),
            probabilities=np.stack(
                [
                    map_to_grid(channel, on_grid, scan, outside=float(index == 0))
                    for index, channel in enumerate(maps_xyz)
                ]
            )
            if probabilities
            else None,
        )

    def _on_study_grid(
        self, scan: sitk.Image
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], sitk.Image]:
        """Probabilities (C, X, Y, Z), confidence (X, Y, Z), and an image of the grid's geometry."""
        on_grid = preprocess_image(scan, self.config.spacing_mm)
        array_xyz = sitk.GetArrayViewFromImage(on_grid).transpose(2, 1, 0).copy()
        grid = sitk.Image(on_grid.GetSize(), sitk.sitkUInt8)  # a quarter of the memory
        grid.CopyInformation(on_grid)
        del on_grid
        volume = torch.from_numpy(array_xyz)[None, None]
        volume = volume.to(next(self.segmenter.parameters()).device)
        predicted = segment_volume(self.segmenter, volume, self.config)
        trust = self._confidence(predicted, volume)
        return predicted[0].cpu().numpy(), trust[0, 0].cpu().numpy(), grid

    def _confidence(self, probabilities: Tensor, volume: Tensor) -> Tensor:
        """M, or the maximum softmax where there is no D, (1, 1, X, Y, Z) on the study's grid."""
        if self.confidence is None:
            return probabilities.amax(1, keepdim=True)
        return trust_volume(self.confidence, probabilities, volume, self.config)


def _scan_of(image: sitk.Image) -> sitk.Image:
    """The scan in float32, as in training: resampling would round integers."""
    if not isinstance(image, sitk.Image):
        raise TypeError(
            f"image: is of type {type(image).__name__}; give a SimpleITK image, such as "
            "SimpleITK.ReadImage(path)"
        )
    if image.GetDimension() != 3 or "vector" in image.GetPixelIDTypeAsString():
        raise ValueError(
            f"image: has {image.GetDimension()} axes and {image.GetNumberOfComponentsPerPixel()} "
            "channels; give one volume of one channel"
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise ValueError("image: has complex voxels; give their magnitude")
    if min(image.GetSize()) < 2:
        raise ValueError(f"image: has {image.GetSize()} voxels; give at least two along each axis")
    # What is in 32 bits already is not copied: nothing below writes into it.
    in_floats = image.GetPixelID() == sitk.sitkFloat32
    scan = image if in_floats else sitk.Cast(image, sitk.sitkFloat32)
    voxels = sitk.GetArrayViewFromImage(scan)
    undefined = voxels.size - sum(int(np.count_nonzero(np.isfinite(part))) for part in voxels)
    if undefined:
        raise ValueError(f"image: is NaN or infinite in {undefined} voxel(s); give them a value")
    if voxels.min() == voxels.max():
        raise ValueError("image: is constant, every voxel is the same; export it again")
    return scan


def load_model(folder: str | Path, *, device: str = "auto") -> SegmentationModel:
    """A saved model on a device.

    Args:
        folder: Holds model.safetensors and protocol.json, such as `model/best` of a run.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        FileNotFoundError: The folder holds no model.
        ModelFileError: Its files are damaged, of two studies, or of other networks.
        DeviceError: The device is not there.
    """
    files = read_model_files(Path(folder))
    return SegmentationModel.from_files(files, _config_of(files), device)


def _config_of(files: ModelFiles) -> ModelConfig:
    """What a model needs of its study's protocol, which decides more."""
    content = _known(files.protocol, ModelConfig)
    if isinstance(content.get("evaluation"), dict):
        content["evaluation"] = _known(content["evaluation"], InferenceConfig)
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        raise ModelFileError(
            f"{files.folder / PROTOCOL_FILE}: is not a protocol: {error}"
        ) from None


def _known(content: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key in model.model_fields}


def labels_on_scan(
    probabilities_xyz: NDArray[np.float32],
    config: ModelConfig,
    study_grid: sitk.Image,
    scan: sitk.Image,
    *,
    in_one_piece: Collection[str],
) -> NDArray[np.uint8]:
    """From (C, X, Y, Z) on the study's grid to label values on the scan's own, (Z, Y, X).

    Every method's predictions take this path, so none gains by another interpolation.

    Args:
        probabilities_xyz: In [0, 1].
        config: Has the organs' values.
        study_grid: Any image of that grid's geometry.
        scan: As acquired.
        in_one_piece: Organs of which the largest connected component alone is kept.
    """
    channels = probabilities_to_grid(probabilities_xyz, study_grid, scan)
    kept = [n for n, organ in enumerate(config.organ_names, start=1) if organ in in_one_piece]
    channels = largest_components(channels, kept)
    values = np.array([0, *(config.organs[organ] for organ in config.organ_names)], np.uint8)
    label: NDArray[np.uint8] = values[channels]
    return label


def largest_components(channels: NDArray[np.uint8], values: Iterable[int]) -> NDArray[np.uint8]:
    """One connected component of each of these values, any axis order.

    Smaller pieces become background; other values stay as they are.
    """
    kept = channels.copy()
    for value in values:
        mask = sitk.GetImageFromArray((channels == value).astype(np.uint8))
        ranked = sitk.RelabelComponent(sitk.ConnectedComponent(mask), sortByObjectSize=True)
        kept[sitk.GetArrayViewFromImage(ranked) > 1] = 0
    return kept


def _like(scan: sitk.Image, array_zyx: NDArray[np.generic]) -> sitk.Image:
    image = sitk.GetImageFromArray(array_zyx)
    image.CopyInformation(scan)
    return image
