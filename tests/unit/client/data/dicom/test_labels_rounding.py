"""Labels on a series whose header rounds its positions: placed by these, and not a voxel off."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from other_segments import write_other_segments
from pydicom import Dataset, dcmread

from client.cli import app
from client.data.dicom.derived.drawing import Drawing
from client.data.dicom.derived.segment_writing import write_segments
from client.data.dicom.derived.structures import write_structures
from client.data.dicom.labels.contours import read_structures
from client.data.dicom.labels.segments import read_segments
from client.data.dicom.series import DicomSeries, find_series, read_series, series_grid
from client.data.errors import ScanError

EYE = np.eye(3)
OBLIQUE, _ = np.linalg.qr(EYE + 0.2 * np.random.default_rng(4).normal(size=(3, 3)))
OBLIQUE *= np.sign(np.diag(OBLIQUE))
# Voxels in mm, direction, decimals of the header's positions.
SCANS: dict[str, tuple[tuple[float, float, float], NDArray[np.float64], int]] = {
    "ct_0.75": ((0.8, 0.8, 0.75), EYE, 1),
    "ct_0.625": ((0.7, 0.7, 0.625), EYE, 1),
    "ct_2.5": ((0.9, 0.9, 2.5), EYE, 0),
    "ct_1.5": ((0.9, 0.9, 1.5), EYE, 0),
    "mr_oblique": ((0.5, 0.5, 3.3), OBLIQUE, 1),
    "exact": ((0.8, 0.8, 0.75), OBLIQUE, 8),
}
ROUNDED = [name for name in SCANS if name != "exact"]
SHAPE = (12, 14, 18)
ORGANS = {"prostate": 1}
MASK = np.zeros(SHAPE, np.bool_)
MASK[1:11, 4:10, 5:12], MASK[3:6, 6:8, 7:9] = True, False
Vector = NDArray[np.float64]


def scan(folder: Path, name: str, *, multiframe: bool = False) -> tuple[sitk.Image, DicomSeries]:
    spacing_mm, direction, decimals = SCANS[name]
    made = ph.phantom(SHAPE, spacing_mm=spacing_mm, direction=direction, origin_mm=(-10, 20, 5.1))

    def edit(header: Dataset, z: int) -> None:
        plane = header.PlanePositionSequence[0] if multiframe else header
        plane.ImagePositionPatient = [f"{mm:.{decimals}f}" for mm in made.position_mm(z)]

    if multiframe:
        for number, order in enumerate(([5, 3, 1, 0, 2, 4], [7, 6, 8, 11, 10, 9])):
            ph.write_enhanced(folder / f"EN{number}", made, order=order, edit=edit)
    else:
        ph.write_classic(folder, made, edit=edit)
    series = find_series(folder, location="")
    return read_series(series, location=""), series


def highdicom(
    series: DicomSeries, path: Path, *, moved_mm: Any = (0, 0, 0), crop: bool = False
) -> Path:
    """The mask on the slices' own positions, or beside them, as highdicom writes it."""
    slices = [dcmread(file) for file in series.files]
    first_y, first_x = (3, 4) if crop else (0, 0)
    row, column = np.reshape(np.array(slices[0].ImageOrientationPatient, float), (2, 3))
    between_rows, between_columns = map(float, slices[0].PixelSpacing)
    shift_mm = row * first_x * between_columns + column * first_y * between_rows + moved_mm
    positions = [np.array(each.ImagePositionPatient, float) + shift_mm for each in slices]
    placed: dict[str, Any] = {
        "plane_positions": [hd.PlanePositionSequence("PATIENT", mm) for mm in positions],
        "pixel_measures": hd.PixelMeasuresSequence(
            slices[0].PixelSpacing, float(slices[0].SliceThickness)
        ),
    }
    pixels = MASK[:, first_y:, first_x:].astype(np.uint8)
    more = placed if crop or np.any(moved_mm) else {}
    return write_other_segments(path, slices, pixels, ["prostate"], **more)


def own_contours(image: sitk.Image, series: DicomSeries, path: Path, moved_mm: Any = 0) -> Path:
    """As a planning system writes it, in the planes of the slices as their headers have them."""
    write_structures(path, Drawing(MASK.astype(np.uint8), image, series, ORGANS, model="nobody"))
    positions_mm = series_grid(series, location="").positions_mm
    structures = dcmread(path)
    for contour in structures.ROIContourSequence[0].ContourSequence:
        points_mm = np.reshape(np.array(contour.ContourData, float), (-1, 3))
        z = round(image.TransformPhysicalPointToContinuousIndex(points_mm[0].tolist())[2])
        on_grid_mm = image.TransformIndexToPhysicalPoint((0, 0, z))
        points_mm += np.array(positions_mm[z]) - on_grid_mm + moved_mm
        contour.ContourData = [f"{mm:.2f}" for mm in points_mm.ravel()]
    structures.save_as(path)
    return path


def axes_mm(image: sitk.Image) -> Vector:
    return np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("name", SCANS)
def test_segments_on_the_slices_own_positions(tmp_path: Path, name: str, crop: bool) -> None:
    image, series = scan(tmp_path / "scan", name)
    offsets = series_grid(series, location="").offsets
    assert (np.abs(offsets).max() > 0.05) == (name != "exact")
    path = highdicom(series, tmp_path / "seg.dcm", crop=crop)
    read = read_segments(path, image, location="", series=series)
    np.testing.assert_array_equal(read["prostate"], MASK)
    if name != "exact":  # of another file the positions are not known
        with pytest.raises(ScanError, match="is not on the image grid"):
            read_segments(path, image, location="", series=None)


@pytest.mark.parametrize("multiframe", [False, True])
@pytest.mark.parametrize("name", SCANS)
def test_contours_on_the_slices_own_positions(tmp_path: Path, name: str, multiframe: bool) -> None:
    image, series = scan(tmp_path / "scan", name, multiframe=multiframe)
    path = own_contours(image, series, tmp_path / "rs.dcm")
    read = read_structures(path, image, location="", series=series)
    np.testing.assert_array_equal(read["prostate"], MASK)


@pytest.mark.parametrize("multiframe", [False, True])
@pytest.mark.parametrize("write", [write_segments, write_structures])
@pytest.mark.parametrize("name", SCANS)
def test_what_predict_writes_scores_1(
    tmp_path: Path, name: str, write: Callable[..., object], multiframe: bool
) -> None:
    image, series = scan(tmp_path / "scan", name, multiframe=multiframe)
    label = sitk.GetImageFromArray(MASK.astype(np.uint8))
    label.CopyInformation(image)
    sitk.WriteImage(label, str(tmp_path / "a.mha"))
    drawing = Drawing(MASK.astype(np.uint8), image, series, ORGANS, model="ASDNet")
    write(tmp_path / "a.dcm", drawing)
    given = [str(tmp_path / each) for each in ("a.dcm", "a.mha")]
    args = ["--scan", str(tmp_path / "scan"), "--organs", "prostate=1", "--json"]
    ran = CliRunner().invoke(app, ["score", *given, *args])
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout)["prostate"]["dsc"] == 1.0


@pytest.mark.parametrize("from_slice", [0, 6])
def test_segments_on_the_frames_own_positions(tmp_path: Path, from_slice: int) -> None:
    """Frames of several files; one label has all of them at their own positions or on the grid."""
    image, series = scan(tmp_path / "scan", "ct_0.75", multiframe=True)
    path = tmp_path / "seg.dcm"
    write_segments(path, Drawing(MASK.astype(np.uint8), image, series, ORGANS, model="ASDNet"))
    found = dcmread(path)
    positions_mm = series_grid(series, location="").positions_mm
    for group in found.PerFrameFunctionalGroupsSequence:
        plane = group.PlanePositionSequence[0]
        index = image.TransformPhysicalPointToContinuousIndex(
            [float(mm) for mm in plane.ImagePositionPatient]
        )
        if (z := round(index[2])) >= from_slice:
            plane.ImagePositionPatient = list(positions_mm[z])
    found.save_as(path)
    if from_slice:
        with pytest.raises(ScanError, match="is not on the image grid"):
            read_segments(path, image, location="", series=series)
    else:
        read = read_segments(path, image, location="", series=series)
        np.testing.assert_array_equal(read["prostate"], MASK)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[sitk.Image, DicomSeries]]:
    root = tmp_path_factory.mktemp("scans")
    return {name: scan(root / name, name) for name in SCANS}


def _away(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high) | st.floats(-high, -low)


near = st.floats(-0.5, 0.5)
moves = st.one_of(
    st.tuples(_away(0.1, 0.5), near, near),
    st.tuples(near, _away(0.1, 0.5), near),
    st.tuples(near, near, _away(0.26, 0.5)),
)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(name=st.sampled_from(list(SCANS)), moved=moves)
def test_segments_of_a_moved_grid_are_refused(
    scans: dict[str, tuple[sitk.Image, DicomSeries]],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    moved: tuple[float, float, float],
) -> None:
    image, series = scans[name]
    path = tmp_path_factory.mktemp("seg") / "seg.dcm"
    highdicom(series, path, moved_mm=axes_mm(image) @ moved)
    with pytest.raises(ScanError, match="is not on the image grid"):
        read_segments(path, image, location="", series=series)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(name=st.sampled_from(list(SCANS)), moved=_away(0.26, 0.5))
def test_contours_of_a_moved_grid_are_refused(
    scans: dict[str, tuple[sitk.Image, DicomSeries]],
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    moved: float,
) -> None:
    image, series = scans[name]
    path = tmp_path_factory.mktemp("rs") / "rs.dcm"
    own_contours(image, series, path, moved_mm=axes_mm(image)[:, 2] * moved)
    with pytest.raises(ScanError, match="slices off the image's slices"):
        read_structures(path, image, location="", series=series)
