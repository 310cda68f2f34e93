"""Whatever an image's directions, spacing and size, labels come back voxel by voxel."""

from pathlib import Path
from tempfile import TemporaryDirectory

import dicom_phantoms as ph
import numpy as np
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.data.dicom.derived.drawing import Drawing
from client.data.dicom.derived.segment_writing import write_segments
from client.data.dicom.derived.structures import write_structures
from client.data.dicom.labels.contours import read_structures
from client.data.dicom.labels.nesting import nested
from client.data.dicom.labels.outlines import inside, outlines
from client.data.dicom.labels.segments import read_segments
from client.data.dicom.series import find_series, read_series
from client.data.files.geometry import same_grid_error

ORGANS = {"a": 1, "b": 2}
spacings = st.floats(0.2, 6.0)
origins = st.floats(-900.0, 900.0)


@settings(max_examples=200)
@given(
    st.integers(0, 10**6), st.integers(1, 24), st.integers(1, 24), st.sampled_from([0.1, 0.5, 0.9])
)
def test_outlines_hold_what_they_were_drawn_around(
    seed: int, rows: int, columns: int, share: float
) -> None:
    """Noise has holes in islands in holes, and voxels that touch at corners."""
    mask = np.random.default_rng(seed).random((rows, columns)) < share
    found = np.zeros_like(mask)
    for outline in outlines(mask):
        found ^= inside(outline, mask.shape)
    np.testing.assert_array_equal(found, mask)


@settings(max_examples=200)
@given(st.integers(0, 10**6), st.integers(1, 24), st.integers(1, 24), st.integers(1, 3))
def test_contours_hold_as_much_however_often_and_in_whatever_order(
    seed: int, rows: int, columns: int, times: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, columns)) < rng.choice([0.1, 0.5, 0.9])
    drawn = [outline[:: rng.choice([-1, 1])] for outline in outlines(mask) for _ in range(times)]
    order = rng.permutation(len(drawn))
    region = nested([drawn[place] for place in order], mask.shape, (0.5, 0.5))
    np.testing.assert_array_equal(region.mask, mask)
    assert region.united == (times > 1 and mask.any())
    assert not region.unclear


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(2, 5), st.integers(3, 16), st.integers(3, 16)),
    st.tuples(spacings, spacings, spacings),
    st.tuples(origins, origins, origins),
    st.booleans(),
)
def test_labels_come_back(
    seed: int,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    origin_mm: tuple[float, float, float],
    multiframe: bool,
) -> None:
    rng = np.random.default_rng(seed)
    made = ph.phantom(
        shape, spacing_mm=spacing_mm, origin_mm=origin_mm, direction=ph.rotation(seed)
    )
    label: NDArray[np.uint8] = rng.choice([0, 1, 2], shape, p=[0.3, 0.6, 0.1]).astype(np.uint8)
    with TemporaryDirectory() as name:
        folder = Path(name)
        if multiframe:
            order = rng.permutation(shape[0]).tolist()
            ph.write_enhanced(folder / "scan" / "a", made, order=order)
        else:
            ph.write_classic(folder / "scan", made)
        series = find_series(folder / "scan", location="case 1")
        image = read_series(series, location="case 1")
        assert same_grid_error(image, made.image) is None
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), made.voxels)
        write_structures(folder / "rt", Drawing(label, image, series, ORGANS, model="m"))
        write_segments(folder / "seg", Drawing(label, image, series, ORGANS, model="m"))
        for read in (
            # Noise leaves slices out that are empty indeed.
            read_structures(folder / "rt", image, location="case 1", series=series, gaps="keep"),
            read_segments(folder / "seg", image, location="case 1", series=series),
        ):
            for organ, value in ORGANS.items():
                np.testing.assert_array_equal(read[organ], label == value)
