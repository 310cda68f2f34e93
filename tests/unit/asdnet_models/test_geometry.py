"""Geometries at the edge of what a header can hold: each works to known values, or is refused."""

import numpy as np
import pytest
import SimpleITK as sitk

from asdnet_models.geometry import GeometryError, usable_geometry
from asdnet_models.preprocessing import (
    preprocess_image,
    preprocess_label,
    probabilities_to_grid,
)

SIZE = (6, 7, 8)
MARK = (2, 3, 4)
ONE_MM = (1.0, 1.0, 1.0)
# Three of those that NaN comes of in ITK's inverse.
UNDERFLOWING = [
    (1.6e-303, 1.0, -9e-304, 5.9e-303, 9e-304, 1.0, -1.0, 1.6e-303, 5.9e-303),
    (
        *(-1.337456223253552e-300, -1.1670540067997006e-300, -1.0, 7.560222146535569e-300),
        *(-1.0, 1.1670540067997006e-300, 1.0, 7.560222146535569e-300, -1.337456223253552e-300),
    ),
    (
        *(7.509994941777573e-160, -9.1106e-320, -1.0, -2.4261278337231875e-160, -1.0),
        *(-9.1106e-320, -1.0, 2.4261278337231875e-160, -7.509994941777573e-160),
    ),
]


def make(
    direction: tuple[float, ...] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    spacing_mm: tuple[float, float, float] = ONE_MM,
    origin_mm: tuple[float, float, float] = (0, 0, 0),
) -> sitk.Image:
    """One voxel of a label map is marked."""
    image = sitk.Image(SIZE, sitk.sitkUInt8)
    image[MARK] = 1
    image.SetSpacing(spacing_mm)
    image.SetOrigin(origin_mm)
    image.SetDirection(direction)
    return image


@pytest.mark.parametrize("direction", UNDERFLOWING)
def test_cosines_under_the_square_root_of_the_smallest_number(
    direction: tuple[float, ...],
) -> None:
    image = make(direction)
    rounded = np.round(direction)
    assert np.isnan(image.TransformPhysicalPointToContinuousIndex((1, 2, 3))).any()
    np.testing.assert_array_equal(usable_geometry(image).GetDirection(), rounded)
    on_study = preprocess_label(image, ONE_MM)
    expected = sitk.DICOMOrient(make(tuple(rounded.tolist())), "LPS")
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(on_study), sitk.GetArrayFromImage(expected)
    )
    inside = sitk.GetArrayFromImage(on_study).transpose(2, 1, 0).astype(np.float32)
    back = probabilities_to_grid(np.stack([1 - inside, inside]), on_study, image)
    np.testing.assert_array_equal(back, sitk.GetArrayFromImage(image))


def test_a_cosine_of_1e_13_is_zero_and_one_of_1e_10_stays() -> None:
    small = usable_geometry(make((1, 1e-13, 0, -1e-13, 1, 0, 0, 0, 1)))
    assert small.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    real = make((1, 1e-10, 0, -1e-10, 1, 0, 0, 0, 1))
    assert usable_geometry(real) is real
    assert real.GetDirection()[1] == 1e-10


def test_an_ordinary_image_is_given_back_itself() -> None:
    image = make((-1.0, -0.0, 0.0, 0.0, -1.0, 0.0, 0.0, -0.0, 1.0), origin_mm=(-120.5, 80, 1e6))
    before = np.array(image.GetDirection())
    assert usable_geometry(image) is image
    np.testing.assert_array_equal(np.signbit(image.GetDirection()), np.signbit(before))


def test_the_callers_image_keeps_its_direction() -> None:
    image = make(UNDERFLOWING[0])
    usable_geometry(image)
    assert image.GetDirection() == UNDERFLOWING[0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (make(spacing_mm=(1e-300, 1, 1)), "spacing (1e-300, 1, 1) mm is not between"),
        (make(spacing_mm=(1, 1e300, 1)), "spacing (1, 1e+300, 1) mm is not between"),
        (make(spacing_mm=(1, 1, 1001)), "is not between 1e-06 and 1000 mm"),
        (make(origin_mm=(1e300, 0, 0)), "misses by"),
        (
            make(origin_mm=(0, 1e20, 0)),
            "misses by 7 voxels: spacing (1, 1, 1) mm, origin (0, 1e+20",
        ),
        (make(origin_mm=(0, np.inf, 0)), "NaN or infinite"),
        (make((1, 0, 0, 0, 1e-13, 0, 0, 0, 1)), "is singular"),
        (make((1e-320, 0, 0, 0, 1, 0, 0, 0, 1)), "is singular"),
    ],
)
def test_refused(image: sitk.Image, message: str) -> None:
    for call in (
        usable_geometry,
        lambda image: preprocess_label(image, ONE_MM),
        lambda image: preprocess_image(sitk.Cast(image, sitk.sitkFloat32), ONE_MM),
        lambda image: probabilities_to_grid(np.ones((2, *SIZE), np.float32), make(), image),
        lambda image: probabilities_to_grid(np.ones((2, *SIZE), np.float32), image, make()),
    ):
        with pytest.raises(GeometryError) as caught:
            call(image)
        assert message in str(caught.value)


def test_an_origin_of_ten_thousand_kilometres_still_has_its_voxels() -> None:
    image = make(origin_mm=(1e10, 0, 0))
    assert usable_geometry(image) is image


def test_a_sheared_label_map_stays_where_it_is() -> None:
    """x = i + j / 2; a cube of four voxels a side, at half the spacing and back."""
    image = sitk.Image((9, 9, 9), sitk.sitkUInt8)
    image[2:6, 3:7, 1:5] = 1
    image.SetDirection((1, 0.5, 0, 0, 1, 0, 0, 0, 1))
    finer = preprocess_label(image, (0.5, 0.5, 0.5))
    assert finer.GetSize() == (18, 18, 18)
    marked = np.argwhere(sitk.GetArrayFromImage(finer))[:, ::-1]
    np.testing.assert_array_equal(marked.min(0), [4, 6, 2])
    np.testing.assert_array_equal(marked.max(0), [11, 13, 9])
    places_mm = [finer.TransformIndexToPhysicalPoint(at) for at in marked.tolist()]
    np.testing.assert_allclose(np.mean(places_mm, axis=0), (3.5 + 4.5 / 2, 4.5, 2.5))
    inside = sitk.GetArrayFromImage(finer).transpose(2, 1, 0).astype(np.float32)
    back = probabilities_to_grid(np.stack([1 - inside, inside]), finer, image)
    changed = np.argwhere(back != sitk.GetArrayFromImage(image))
    assert len(changed) <= 8  # corners, of which three quarters are cut off thrice
    assert back[2:4, 4:6, 3:5].all()
