"""The picture of a prediction: turned without a copy, and through the least confident place."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from client.data.files.geometry import upright_view
from client.segmenting.overview import _near, least_confident_place

TURNED = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


@pytest.mark.parametrize("degrees", [0, 20])
def test_a_view_is_turned_as_itk_turns_a_copy(degrees: float) -> None:
    slant = sitk.Euler3DTransform((0, 0, 0), *np.radians((degrees, -degrees / 2, degrees / 3)))
    for permutation, signs in TURNED:
        axes = np.zeros((3, 3))
        axes[permutation, range(3)] = signs
        image = sitk.GetImageFromArray(np.arange(120, dtype=np.float32).reshape(4, 5, 6))
        image.SetSpacing((1.0, 2.0, 3.0))
        image.SetDirection((np.reshape(slant.GetMatrix(), (3, 3)) @ axes).ravel().tolist())
        expected = sitk.DICOMOrient(image, "LPS")
        found, spacing_mm = upright_view(image)
        np.testing.assert_array_equal(found, sitk.GetArrayFromImage(expected))
        assert spacing_mm == pytest.approx(expected.GetSpacing())


def whole_volume(
    confidence: NDArray[np.float32], near: NDArray[np.bool_], size: list[int]
) -> tuple[int, ...]:
    """The same place, looked for in all of the volume."""
    unsure = np.where(near, 1 - confidence, 0).astype(np.float32)
    smooth = ndimage.uniform_filter(unsure, size, mode="constant")
    best = np.where(near, smooth, -1).argmax()
    return tuple(int(index) for index in np.unravel_index(best, near.shape))


@pytest.mark.parametrize("seed", range(12))
def test_the_box_around_the_organs_is_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(edge) for edge in rng.integers(4, 24, 3))
    spacing_mm = tuple(float(mm) for mm in rng.choice([0.7, 1, 2.5, 8], 3))
    label = (rng.random(shape) > rng.choice([0.5, 0.99])).astype(np.uint8)
    label[: shape[0] // 2] = 0
    label[-1, -1, -1] = 1
    size = [2 * round(3 / mm) + 1 for mm in reversed(spacing_mm)]
    near = _near(label, spacing_mm)
    np.testing.assert_array_equal(near, ndimage.maximum_filter(label > 0, size))
    confidence = rng.random(shape).astype(np.float32)
    expected = whole_volume(confidence, near, [max(1, round(6 / m)) | 1 for m in spacing_mm[::-1]])
    assert least_confident_place(confidence, near, spacing_mm) == expected
