"""A made patient with two organs, moved and scaled at will."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from simulation.baselines.volumes import Atlas

EDGE = 24
MakeAtlas = Callable[..., Atlas]


@pytest.fixture(autouse=True)
def one_itk_thread(one_thread: None) -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


@pytest.fixture
def make_atlas() -> MakeAtlas:
    """A bright ball (1) and a dark rod (2) in a textured body; 2 mm voxels."""

    def make(
        name: str = "atlas", shift: tuple[float, float, float] = (0, 0, 0), scale: float = 1.0
    ) -> Atlas:
        grid = np.mgrid[:EDGE, :EDGE, :EDGE].astype(float)
        x, y, z = ((axis - 11.5 - s) / scale for axis, s in zip(grid, shift, strict=True))
        body = x**2 / 81 + y**2 / 64 + z**2 / 100 < 1
        ball = x**2 + (y + 3) ** 2 + z**2 < 9
        rod = (x**2 + (y - 4) ** 2 < 5) & (np.abs(z) < 5)
        voxels = -1.0 + 1.0 * body + 1.5 * ball - 0.8 * rod
        voxels += np.random.default_rng(len(name)).normal(0, 0.03, voxels.shape)
        label = np.zeros(voxels.shape, np.uint8)
        label[ball], label[rod] = 1, 2
        return Atlas(name=name, image=_image(voxels.astype(np.float32)), label=_image(label))

    return make


def _image(array_xyz: NDArray[Any]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_xyz.transpose(2, 1, 0)))
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetOrigin((-20.0, 4.0, 7.0))
    return image
