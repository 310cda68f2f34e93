"""DICOM-SEG: written, read back, read by others; and what is refused."""

import subprocess
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_cases import ORDER, ORGANS, SHAPE, case_of, real, real_gland, validator
from numpy.typing import NDArray
from other_segments import write_other_segments
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes

from client.data.dicom.derived.drawing import NOT_CLINICAL, Drawing
from client.data.dicom.derived.segment_writing import write_segments
from client.data.dicom.labels.segments import read_segments
from client.data.dicom.series import DicomSeries
from client.data.errors import ScanError


def labels() -> NDArray[np.uint8]:
    """The rectum is in no voxel, the first slice holds nothing."""
    label: NDArray[np.uint8] = np.random.default_rng(1).choice([0, 1, 2], SHAPE).astype(np.uint8)
    label[0] = 0
    return label


def by_pydicom(path: Path, image: sitk.Image, number: int) -> NDArray[np.bool_]:
    """One segment placed frame by frame; knows nothing of the project's code or of highdicom."""
    found = dcmread(path)
    mask = np.zeros(image.GetSize()[::-1], bool)
    (shared,) = found.SharedFunctionalGroupsSequence
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    for frame, group in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        where = group if "SegmentIdentificationSequence" in group else shared
        if where.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            position = group.PlanePositionSequence[0].ImagePositionPatient
            x, y, z = image.TransformPhysicalPointToIndex([float(mm) for mm in position])
            assert (x, y) == (0, 0)
            mask[z] = frame > 0
    return mask


@pytest.mark.parametrize("multiframe", [False, True])
@pytest.mark.parametrize("direction", [np.eye(3), np.diag([1.0, -1, -1]), ph.rotation(3)])
def test_round_trip(tmp_path: Path, direction: NDArray[np.float64], multiframe: bool) -> None:
    image, series = case_of(tmp_path, ph.phantom(direction=direction), multiframe=multiframe)
    label, path = labels(), tmp_path / "seg.dcm"
    write_segments(path, Drawing(label, image, series, ORGANS, model="ASDNet"))
    read = read_segments(path, image, location="case 1", series=series)
    assert list(read) == list(ORGANS)
    for number, (name, value) in enumerate(ORGANS.items(), start=1):
        np.testing.assert_array_equal(read[name], label == value)
        np.testing.assert_array_equal(by_pydicom(path, image, number), label == value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scan", "seg.dcm"]


@pytest.mark.parametrize("multiframe", [False, True])
def test_highdicom_finds_segments_by_slice_of_the_source(tmp_path: Path, multiframe: bool) -> None:
    made = ph.phantom()
    image, series = case_of(tmp_path, made, multiframe=multiframe)
    label, path = labels(), tmp_path / "seg.dcm"
    write_segments(path, Drawing(label, image, series, ORGANS, model="ASDNet 1"))
    found = hd.seg.segread(path)
    if multiframe:
        (uid,) = series.instance_uids
        read = found.get_pixels_by_source_frame(uid, range(1, 6), combine_segments=False)
        expected = label[ORDER]
    else:
        read = found.get_pixels_by_source_instance(series.instance_uids, combine_segments=False)
        expected = label
    for number, value in enumerate(ORGANS.values()):
        np.testing.assert_array_equal(read[..., number], expected == value)
    assert (found.PatientID, str(found.PatientName)) == ("4711", "Doe^Jane")
    assert (found.StudyInstanceUID, found.FrameOfReferenceUID) == (made.study_uid, made.frame_uid)
    assert found.ContentDescription == found.SeriesDescription == NOT_CLINICAL
    prostate = found.get_segment_description(2)
    assert prostate.segmented_property_type == codes.SCT.Prostate
    assert prostate.algorithm_type.value == "AUTOMATIC"
    assert prostate.algorithm_identification.name == "ASDNet 1"


@validator
@pytest.mark.parametrize("multiframe", [False, True])
def test_validator_has_no_errors(tmp_path: Path, multiframe: bool) -> None:
    image, series = case_of(tmp_path, ph.phantom(), multiframe=multiframe)
    for name, label in (("full", labels()), ("empty", np.zeros(SHAPE, np.uint8))):
        path = tmp_path / f"{name}.dcm"
        write_segments(path, Drawing(label, image, series, {**ORGANS, "hand": 9}, model="ASDNet"))
        told = subprocess.run(
            ["dciodvfy", path], capture_output=True, encoding="utf-8", check=False
        )
        assert "Segmentation" in told.stderr
        assert "Error" not in told.stderr
        read = read_segments(path, image, location="case 1", series=series)
        np.testing.assert_array_equal(read["bladder"], label == 1)


def other_writer(
    path: Path, series: DicomSeries, pixels: NDArray[Any], kind: str, **values: Any
) -> Path:
    """A DICOM-SEG as another program writes it, of the segments `one` and `two`."""
    sources = [dcmread(file) for file in series.files]
    return write_other_segments(path, sources, pixels, ("one", "two"), kind, **values)


def test_label_map_segmentation(tmp_path: Path) -> None:
    image, series = case_of(tmp_path, ph.phantom(direction=ph.rotation(4)))
    path = other_writer(tmp_path / "seg.dcm", series, labels(), "LABELMAP")
    read = read_segments(path, image, location="case 1", series=series)
    assert set(read) == {"one", "two"}
    np.testing.assert_array_equal(read["one"], labels() == 1)
    np.testing.assert_array_equal(read["two"], labels() == 2)


def test_fractional_segmentation_from_a_half_on(tmp_path: Path) -> None:
    image, series = case_of(tmp_path, ph.phantom())
    share = np.random.default_rng(2).choice([0, 0.25, 0.498, 0.502, 1], (*SHAPE, 2))
    values = {"fractional_type": "PROBABILITY", "max_fractional_value": 255}
    path = other_writer(tmp_path / "seg.dcm", series, share, "FRACTIONAL", **values)
    read = read_segments(path, image, location="case 1", series=series)
    np.testing.assert_array_equal(read["one"], share[..., 0] >= 0.5)
    np.testing.assert_array_equal(read["two"], share[..., 1] >= 0.5)


def edited(path: Path, edit: Any) -> Path:
    found = dcmread(path)
    edit(found)
    ph.save(found, path)
    return path


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, sitk.Image, DicomSeries]:
    image, series = case_of(tmp_path, ph.phantom())
    path = tmp_path / "seg.dcm"
    write_segments(path, Drawing(labels(), image, series, ORGANS, model="ASDNet"))
    return path, image, series


def measures(found: Dataset) -> Dataset:
    item: Dataset = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return item


def position(found: Dataset) -> Dataset:
    item: Dataset = found.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    return item


def test_frames_with_turned_axes_are_placed(written: tuple[Any, ...]) -> None:
    """Rows from right to left, and their order turned over."""
    path, image, series = written

    def edit(found: Dataset) -> None:
        frames = found.pixel_array[:, ::-1, ::-1]
        found.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
        plane = found.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        plane.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        for group in found.PerFrameFunctionalGroupsSequence:
            item = group.PlanePositionSequence[0]
            x, y, z = (float(mm) for mm in item.ImagePositionPatient)
            item.ImagePositionPatient = ph.numbers((x + 17 * 0.5, y + 13 * 0.7, z))

    read = read_segments(edited(path, edit), image, location="case 1", series=series)
    np.testing.assert_array_equal(read["bladder"], labels() == 1)


def finer(found: Dataset) -> None:
    measures(found).PixelSpacing = ["0.35", "0.25"]


def shifted(found: Dataset) -> None:
    x, y, z = position(found).ImagePositionPatient
    position(found).ImagePositionPatient = ph.numbers((x, y + 0.35, z))


def outside(found: Dataset) -> None:
    x, y, z = position(found).ImagePositionPatient
    position(found).ImagePositionPatient = ph.numbers((x, y, z + 30))


def foreign_frame(found: Dataset) -> None:
    found.FrameOfReferenceUID = "1.2.3"


def foreign_series(found: Dataset) -> None:
    found.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def twice(found: Dataset) -> None:
    found.SegmentSequence[1].SegmentLabel = "bladder"


def report(found: Dataset) -> None:
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"


def short(found: Dataset) -> None:
    found.PixelData = found.PixelData[:20]


BAD = {
    "finer": (finer, "grid", "not on the image grid"),
    "shifted": (shifted, "grid", "not on the image grid"),
    "outside": (outside, "grid", "not on the image grid"),
    "other_frame": (foreign_frame, "reference", "drawn on another frame of reference"),
    "other_series": (foreign_series, "reference", "drawn on another series"),
    "name_twice": (twice, "values", "has 1 segment label(s) more than once"),
    "report": (report, "format", "is no DICOM-SEG"),
    "short": (short, "damaged", "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_segments(written: tuple[Any, ...], name: str) -> None:
    path, image, series = written
    edit, rule, message = BAD[name]
    with pytest.raises(ScanError) as caught:
        read_segments(edited(path, edit), image, location="case 1", series=series)
    assert caught.value.problem.rule == rule
    assert message in caught.value.problem.message
    assert not any(name in caught.value.problem.message for name in ORGANS)


def test_label_that_is_not_on_the_series_grid(written: tuple[Any, ...], tmp_path: Path) -> None:
    _, image, series = written
    moved = sitk.Image(image)
    moved.SetOrigin((0, 0, 0))
    for label, given in ((labels()[:4], image), (labels(), moved)):
        with pytest.raises(ScanError) as caught:
            write_segments(
                tmp_path / "b.dcm", Drawing(label, given, series, ORGANS, model="ASDNet")
            )
        assert caught.value.problem.rule == "grid"
    assert not (tmp_path / "b.dcm").exists()


@real
def test_real_gland(tmp_path: Path) -> None:
    image, series, gland = real_gland()
    path = tmp_path / "seg.dcm"
    write_segments(path, Drawing(gland, image, series, {"prostate": 1}, model="ASDNet"))
    read = read_segments(path, image, location="case 1", series=series)
    np.testing.assert_array_equal(read["prostate"], gland == 1)
    np.testing.assert_array_equal(by_pydicom(path, image, 1), gland == 1)
    volume = hd.seg.segread(path).get_pixels_by_source_instance(
        series.instance_uids, combine_segments=True
    )
    np.testing.assert_array_equal(volume, gland)
