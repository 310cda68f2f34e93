"""A trained model as a Python function of MLflow (`mlflow.pyfunc.load_model`).

MLflow reads the module's name from the file MLmodel beside the model, and calls `_load_pyfunc`.
The model's folder holds weights and JSON, and neither code nor pickles: what runs is this library
as it is installed where the model is loaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.inference.predictor import SegmentationModel, load_model

_AXES = ("Z", "Y", "X")


class PyFuncModel:
    """What MLflow calls: arrays in, arrays out."""

    def __init__(self, model: SegmentationModel) -> None:
        self._model = model

    def predict(self, model_input: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Segment one scan.

        Args:
            model_input: `image`, float32 (1, 1, Z, Y, X), axes as SimpleITK gives them of a scan
                whose direction is the identity: z to the head, y to the back, x to the patient's
                left; and `spacing_zyx_mm`, (3,), the voxel's edges in mm in the same order.

        Returns:
            `label`, uint8 (1, 1, Z, Y, X): the study's values of the organs, 0 is background;
            `confidence`, float32 of the same shape, in [0, 1].

        Raises:
            TypeError: The input is no mapping of these two.
            ValueError: An array has another shape, or the scan cannot be used.
        """
        if not isinstance(model_input, Mapping) or not {"image", "spacing_zyx_mm"} <= set(
            model_input
        ):
            raise TypeError(
                "model_input: must be a mapping of 'image' and 'spacing_zyx_mm', such as"
                " {'image': array[None, None], 'spacing_zyx_mm': [3.0, 1.0, 1.0]}"
            )
        array = np.asarray(model_input["image"], dtype=np.float32)
        spacing = np.asarray(model_input["spacing_zyx_mm"], dtype=np.float64).ravel()
        if array.ndim != 5 or array.shape[:2] != (1, 1):
            raise ValueError(
                f"image: has the shape {array.shape}; give (1, 1, {', '.join(_AXES)}), one scan of"
                " one channel"
            )
        if spacing.shape != (3,) or not (np.isfinite(spacing).all() and (spacing > 0).all()):
            raise ValueError(
                f"spacing_zyx_mm: is {spacing.tolist()}; give three positive edges in mm, of the"
                f" axes {', '.join(_AXES)}"
            )
        image = sitk.GetImageFromArray(array[0, 0])
        image.SetSpacing(spacing[::-1].tolist())
        result = self._model.predict(image)
        maps = {"label": result.label, "confidence": result.confidence}
        return {name: sitk.GetArrayFromImage(map_)[None, None] for name, map_ in maps.items()}


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> PyFuncModel:
    """What MLflow calls with the model's folder.

    Args:
        data_path: Holds model.safetensors and protocol.json.
        model_config: `device`: auto (unless given), cpu, cuda or cuda:N.
    """
    device = str((model_config or {}).get("device", "auto"))
    return PyFuncModel(load_model(Path(data_path), device=device))
