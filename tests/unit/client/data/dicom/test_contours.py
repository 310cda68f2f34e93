"""RTSTRUCT: written, read back, read by others; and what is refused."""

import os
import subprocess
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_cases import ORGANS, case_of, real, real_gland, validator
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian

from client.data.dicom.derived.drawing import NOT_CLINICAL, Drawing
from client.data.dicom.derived.structures import write_structures
from client.data.dicom.labels.contours import read_structures
from client.data.dicom.labels.outlines import inside, outlines
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError


def labels(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A block with two holes, a block at the border, and two voxels that touch at a corner."""
    label = np.zeros(shape, np.uint8)
    label[1:4, 2:12, 3:14] = 2
    label[2, 4:6, 5:7] = label[2, 8:10, 8:12] = 0
    label[:, :2] = 1
    label[3, 13, 17] = label[3, 12, 16] = 1
    return label


def by_matplotlib(path: Path, image: sitk.Image) -> dict[str, NDArray[np.bool_]]:
    """What an independent reader has inside; it knows nothing of the project's code."""
    found = dcmread(path)
    names = {roi.ROINumber: roi.ROIName for roi in found.StructureSetROISequence}
    shape = image.GetSize()[::-1]
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    masks = {str(name): np.zeros(shape, bool) for name in names.values()}
    for roi in found.ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3).tolist()
            at = np.array([image.TransformPhysicalPointToContinuousIndex(p) for p in points])
            mask = masks[names[roi.ReferencedROINumber]]
            z = round(at[0, 2])
            mask[z] ^= Polygon(at[:, :2]).contains_points(centres).reshape(shape[1:])
    return masks


@pytest.mark.parametrize("multiframe", [False, True])
@pytest.mark.parametrize("direction", [np.eye(3), np.diag([1.0, -1, -1]), ph.rotation(3)])
def test_round_trip(tmp_path: Path, direction: NDArray[np.float64], multiframe: bool) -> None:
    image, series = case_of(tmp_path, ph.phantom(direction=direction), multiframe=multiframe)
    label, path = labels((5, 14, 18)), tmp_path / "rt.dcm"
    write_structures(path, Drawing(label, image, series, ORGANS, model="ASDNet"))
    read = read_structures(path, image, location="case 1", series=series)
    assert list(read) == list(ORGANS)
    others = by_matplotlib(path, image)
    for name, value in ORGANS.items():
        np.testing.assert_array_equal(read[name], label == value)
        np.testing.assert_array_equal(others[name], label == value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rt.dcm", "scan"]


@pytest.mark.parametrize("multiframe", [False, True])
def test_header(tmp_path: Path, multiframe: bool) -> None:
    made = ph.phantom()
    image, series = case_of(tmp_path, made, multiframe=multiframe)
    path, label = tmp_path / "rt.dcm", labels((5, 14, 18))
    write_structures(path, Drawing(label, image, series, ORGANS, model="ASDNet 1"))
    found = dcmread(path)
    assert (found.PatientID, str(found.PatientName)) == ("4711", "Doe^Jane")
    assert (found.StudyInstanceUID, found.FrameOfReferenceUID) == (made.study_uid, made.frame_uid)
    assert found.SeriesInstanceUID != made.series_uid
    assert NOT_CLINICAL in found.SeriesDescription
    assert NOT_CLINICAL in found.StructureSetName
    rois = found.StructureSetROISequence
    assert {roi.ROIGenerationAlgorithm for roi in rois} == {"AUTOMATIC"}
    for contour in found.ROIContourSequence[1].ContourSequence:
        (reference,) = contour.ContourImageSequence
        (file,) = (
            file
            for file, uid in zip(series.files, series.instance_uids, strict=True)
            if uid == reference.ReferencedSOPInstanceUID
        )
        scan = dcmread(file)
        if multiframe:
            frame = scan.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
            scan = frame.PlanePositionSequence[0]
        assert float(contour.ContourData[2]) == pytest.approx(scan.ImagePositionPatient[2])


@validator
@pytest.mark.parametrize("multiframe", [False, True])
def test_validator_has_no_errors(tmp_path: Path, multiframe: bool) -> None:
    image, series = case_of(tmp_path, ph.phantom(), multiframe=multiframe)
    for name, label in (("full", labels((5, 14, 18))), ("empty", np.zeros((5, 14, 18), np.uint8))):
        path = tmp_path / f"{name}.dcm"
        write_structures(path, Drawing(label, image, series, ORGANS, model="ASDNet"))
        told = subprocess.run(
            ["dciodvfy", path], capture_output=True, encoding="utf-8", check=False
        )
        assert "RTStructureSet" in told.stderr
        assert "Error" not in told.stderr


def test_contour_longer_than_an_explicit_vr_can_hold(tmp_path: Path) -> None:
    """A comb has a long outline: over 64 kB of coordinates."""
    image, series = case_of(tmp_path, ph.phantom((2, 128, 128)))
    label = np.zeros((2, 128, 128), np.uint8)
    label[0, 1:-1, 1] = label[0, 1:-1:2, 1:-1] = 1
    path = tmp_path / "rt.dcm"
    write_structures(path, Drawing(label, image, series, {"a": 1}, model="ASDNet"))
    for explicit in (False, True):
        if explicit:
            found = dcmread(path)
            found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            with pytest.warns(UserWarning, match="64 kByte"):
                ph.save(found, path)
        read = read_structures(path, image, location="case 1", series=series)
        np.testing.assert_array_equal(read["a"], label == 1)


def test_outline_of_one_voxel_by_hand() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (outline,) = outlines(mask)
    assert {tuple(point) for point in outline} == {(1.5, 1), (2.5, 1), (2, 0.5), (2, 1.5)}
    np.testing.assert_array_equal(inside(outline, (3, 4)), mask)


def test_inside_by_hand() -> None:
    """Outside the grid on every side; a square with a keyhole; a square of no voxel's centre."""
    around = np.array([[-5.0, -5], [9, -5], [9, 9], [-5, 9]])
    assert inside(around, (3, 4)).all()
    ring = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [1, 1], [3, 1], [3, 3], [1, 3], [1, 1]]
    expected = np.ones((5, 5), bool)
    expected[1:4, 1:4] = False
    np.testing.assert_array_equal(inside(np.array(ring) * 1.2 - 0.4, (5, 5)), expected)
    tiny = np.array([[1.2, 1.2], [1.8, 1.2], [1.8, 1.8], [1.2, 1.8]])
    assert not inside(tiny, (3, 4)).any()


def edited(path: Path, edit: Any) -> Path:
    found = dcmread(path)
    edit(found)
    ph.save(found, path)
    return path


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, sitk.Image, DicomSeries]:
    image, series = case_of(tmp_path, ph.phantom())
    path = tmp_path / "rt.dcm"
    write_structures(path, Drawing(labels((5, 14, 18)), image, series, ORGANS, model="ASDNet"))
    return path, image, series


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_hole_as_a_contour_of_its_own(written: tuple[Any, ...], kind: str) -> None:
    path, image, series = written

    def edit(found: Dataset) -> None:
        template = found.ROIContourSequence[0].ContourSequence[0]
        contours = []
        for low, high in ((2.5, 9.5), (4.5, 7.5)):
            corners = [(low, low), (high, low), (high, high), (low, high)]
            contour = Dataset()
            contour.update(template)
            contour.ContourGeometricType = kind
            points = [
                image.TransformContinuousIndexToPhysicalPoint((x, y, 2.2)) for x, y in corners
            ]
            contour.ContourData, contour.NumberOfContourPoints = ph.numbers(points), len(points)
            contours.append(contour)
        found.ROIContourSequence[0].ContourSequence = contours

    read = read_structures(edited(path, edit), image, location="case 1", series=series)
    expected = np.zeros((5, 14, 18), bool)
    expected[2, 3:10, 3:10] = True
    expected[2, 5:8, 5:8] = False
    np.testing.assert_array_equal(read["bladder"], expected)


def contour(found: Dataset) -> Dataset:
    item: Dataset = found.ROIContourSequence[1].ContourSequence[0]
    return item


def shift(axis: int, by_mm: float) -> Any:
    def edit(found: Dataset) -> None:
        points = np.array(contour(found).ContourData, float).reshape(-1, 3)
        points[:, axis] += by_mm
        contour(found).ContourData = ph.numbers(points)

    return edit


def rename(found: Dataset) -> None:
    found.StructureSetROISequence[1].ROIName = "bladder"


def foreign_frame(found: Dataset) -> None:
    for roi in found.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = "1.2.3"


def foreign_series(found: Dataset) -> None:
    study = found.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def foreign_slice(found: Dataset) -> None:
    contour(found).ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def open_line(found: Dataset) -> None:
    contour(found).ContourGeometricType = "OPEN_PLANAR"


def report(found: Dataset) -> None:
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"


def odd_data(found: Dataset) -> None:
    contour(found).ContourData = contour(found).ContourData[:-1]


BAD = {
    "between_slices": (shift(2, 1.0), "reference", "0.33 slices off the image's slices"),
    "below": (shift(2, -6.0), "reference", "a contour outside the image"),
    "beside": (shift(0, 4.0), "reference", "a contour outside the image"),
    "name_twice": (rename, "values", "has 1 ROI name(s) more than once"),
    "other_frame": (foreign_frame, "reference", "drawn on another frame of reference"),
    "other_series": (foreign_series, "reference", "drawn on another series"),
    "other_slice": (foreign_slice, "reference", "drawn on another series"),
    "open": (open_line, "format", "a contour that is not closed in one plane"),
    "report": (report, "format", "is no RTSTRUCT"),
    "odd_data": (odd_data, "damaged", "lacks a part or holds a wrong one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_structures(written: tuple[Any, ...], name: str) -> None:
    path, image, series = written
    edit, rule, message = BAD[name]
    with pytest.raises(ScanError) as caught:
        read_structures(edited(path, edit), image, location="case 1", series=series)
    assert caught.value.problem.rule == rule
    assert message in caught.value.problem.message
    assert not any(name in caught.value.problem.message for name in ORGANS)


def test_references_are_not_looked_at_without_a_series(written: tuple[Any, ...]) -> None:
    path, image, _ = written
    read = read_structures(edited(path, foreign_series), image, location="case 1", series=None)
    assert read["prostate"].any()


def test_points_and_slices_without_a_contour(written: tuple[Any, ...]) -> None:
    path, image, series = written
    notes: list[str] = []

    def edit(found: Dataset) -> None:
        found.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "POINT"
        found.ROIContourSequence[1].ContourSequence.pop(1)

    read = read_structures(
        edited(path, edit),
        image,
        location="case 1",
        series=series,
        gaps="keep",
        organ_of={"bladder": "b", "prostate": "p"}.get,
        note=notes.append,
    )
    assert set(read) == {"bladder", "prostate"}
    assert not read["bladder"][0].any()
    np.testing.assert_array_equal(read["prostate"].any(axis=(1, 2)), [0, 1, 0, 1, 0])
    assert notes == ["p: 1 slice(s) without a contour between others stay empty"]


def test_label_that_is_not_on_the_series_grid(written: tuple[Any, ...], tmp_path: Path) -> None:
    _, image, series = written
    flipped = sitk.Flip(image, (False, False, True))
    for label, given in ((labels((5, 14, 18))[:4], image), (labels((5, 14, 18)), flipped)):
        with pytest.raises(ScanError) as caught:
            write_structures(
                tmp_path / "b.dcm", Drawing(label, given, series, ORGANS, model="ASDNet")
            )
        assert caught.value.problem.rule == "grid"
    assert not (tmp_path / "b.dcm").exists()


def test_failed_write_leaves_the_old_file(
    written: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, image, series = written
    before = path.read_bytes()

    def full(source: Any, target: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ScanError, match="cannot be written"):
        write_structures(path, Drawing(labels((5, 14, 18)), image, series, ORGANS, model="ASDNet"))
    assert path.read_bytes() == before
    assert sorted(each.name for each in path.parent.iterdir()) == ["rt.dcm", "scan"]


@real
def test_real_gland(tmp_path: Path) -> None:
    image, series, gland = real_gland()
    path = tmp_path / "rt.dcm"
    write_structures(path, Drawing(gland, image, series, {"prostate": 1}, model="ASDNet"))
    read = read_structures(path, image, location="case 1", series=series)
    np.testing.assert_array_equal(read["prostate"], gland == 1)
    np.testing.assert_array_equal(by_matplotlib(path, image)["prostate"], gland == 1)
    assert series.identified == ()
