"""The quick ways of the preprocessing give the arrays of the plain ones, to the last bit."""

import hashlib

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from asdnet_models.preprocessing import body_mask, normalise, preprocess_image


def plain_body_mask(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """With ITK's own filters, over the whole volume at once."""
    low, high = np.percentile(array, (1.0, 99.5))
    bright = (array > low + 0.1 * (high - low)).astype(np.uint8)
    components = sitk.RelabelComponent(
        sitk.ConnectedComponent(sitk.GetImageFromArray(bright)), sortByObjectSize=True
    )
    filled = sitk.BinaryFillhole(components == 1)
    mask: NDArray[np.bool_] = sitk.GetArrayFromImage(filled).astype(bool)
    return mask if mask.mean() >= 0.05 else np.ones_like(mask)


def plain_normalise(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """As written in docs/method.md, with NumPy's own mean and deviation."""
    body = array[plain_body_mask(array)]
    low, high = np.percentile(body, (1.0, 99.5))
    clipped = np.clip(body, low, high)
    scale = float(clipped.std()) or 1.0
    found: NDArray[np.float32] = (
        (np.clip(array, low, high) - float(clipped.mean())) / scale
    ).astype(np.float32)
    return found


def scan(seed: int) -> NDArray[np.float32]:
    """A noisy body with holes, in air with islands; large enough for several parts of the sums."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(20, 90, 3))
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = x**2 + y**2 < rng.uniform(0.3, 1.2)
    array = np.where(inside, 500 + rng.normal(0, 220, shape), rng.uniform(0, 150, shape))
    return array.astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_the_same_as_the_plain_way(seed: int) -> None:
    array = scan(seed)
    np.testing.assert_array_equal(body_mask(array), plain_body_mask(array))
    np.testing.assert_array_equal(normalise(array), plain_normalise(array))


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_scan_too(value: float) -> None:
    array = np.full((6, 7, 8), value, np.float32)
    np.testing.assert_array_equal(normalise(array), plain_normalise(array))


def test_a_hole_is_filled_over_faces_alone() -> None:
    array = np.zeros((7, 7, 7), np.float32)
    array[1:6, 1:6, 1:6] = 10
    array[3, 3, 3] = 0  # closed
    array[1, 1, 3] = array[2, 2, 3] = 0  # the second reaches the first over an edge alone
    mask = body_mask(array)
    assert mask[3, 3, 3]
    assert not mask[1, 1, 3]
    assert mask[2, 2, 3]


def test_a_scan_has_the_voxels_that_it_had_in_version_1() -> None:
    z, y, x = np.mgrid[:12, :20, :24].astype(np.float32)
    image = sitk.GetImageFromArray(np.floor((x * 7 + y * 3 + z * 11) % 97 + 20 * (x > 6)))
    image.SetSpacing((1.5, 1.5, 3.0))
    found = sitk.GetArrayFromImage(preprocess_image(image, (1.0, 1.0, 1.0)))
    # Rounded, so that another processor's last bit is no failure.
    digest = hashlib.sha256(np.round(found, 3).tobytes()).hexdigest()
    assert (found.shape, digest[:16]) == ((36, 30, 36), "cdbe417c796aff67")
