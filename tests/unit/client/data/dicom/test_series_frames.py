"""Multi-frame files that make one stack together: read, and referred to, frame by frame."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import dicom_phantoms as ph
import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_cases import ORGANS
from pydicom import Dataset, dcmread
from pydicom.uid import EnhancedMRImageStorage

from client.data.dicom.derived.drawing import Drawing
from client.data.dicom.derived.segment_writing import write_segments
from client.data.dicom.derived.structures import write_structures
from client.data.dicom.labels.contours import read_structures
from client.data.dicom.labels.segments import read_segments
from client.data.dicom.series import find_series, read_series, series_grid
from client.data.errors import ScanError
from client.data.files.geometry import same_grid_error
from client.data.files.image_io import read_image

OBLIQUE = ph.rotation(7)
SLOPES = [1.0, 0.5, 2.0, 0.25, 4.0]
PARTS: dict[str, list[list[int]]] = {
    "halves": [[0, 1, 2], [3, 4]],
    "in_turn": [[4, 2, 0], [1, 3]],
    "one_each": [[3], [0], [4], [1], [2]],
    "one": [[3, 0, 4, 1, 2]],
}


def write(
    folder: Path,
    made: ph.Phantom,
    parts: Sequence[Sequence[int]],
    *,
    syntax: str = "",
    edit: ph.Edit | None = None,
    slopes: Sequence[float] = SLOPES,
) -> Path:
    for number, order in enumerate(parts):
        ph.write_enhanced(
            folder / f"EN{number}", made, order=order, slopes=slopes, syntax=syntax, edit=edit
        )
    return folder


@pytest.mark.parametrize("syntax", ["", "jpeg-ls"])
@pytest.mark.parametrize("parts", PARTS)
def test_frames_of_several_files_are_one_stack(tmp_path: Path, parts: str, syntax: str) -> None:
    made = ph.phantom(direction=OBLIQUE)
    folder = write(tmp_path, made, PARTS[parts], syntax=syntax)
    series = find_series(folder, location="")
    assert series.multiframe
    image = read_series(series, location="")
    assert same_grid_error(image, made.image) is None
    expected = made.voxels * np.reshape(SLOPES, (-1, 1, 1))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
    flat = [z for part in PARTS[parts] for z in part]
    assert [flat[at] for at in series_grid(series, location="").order] == [0, 1, 2, 3, 4]


def labels() -> np.ndarray:
    label = np.zeros((5, 14, 18), np.uint8)
    label[1:4, 3:9, 4:10], label[0:2, 10:13, 4:9] = 1, 2
    return label


@pytest.mark.parametrize("parts", PARTS)
def test_segments_refer_to_the_frame_that_they_lie_on(tmp_path: Path, parts: str) -> None:
    made = ph.phantom(direction=OBLIQUE)
    series = find_series(write(tmp_path / "scan", made, PARTS[parts]), location="")
    image = read_series(series, location="")
    label, path = labels(), tmp_path / "seg.dcm"
    write_segments(path, Drawing(label, image, series, ORGANS, model="ASDNet 1"))
    read = read_segments(path, image, location="", series=series)
    np.testing.assert_array_equal(read["bladder"], label == 1)
    found = hd.seg.segread(path)
    uid_of = {dcmread(file).SOPInstanceUID: file for file in series.files}
    seen = 0
    for pixels, group in zip(
        found.pixel_array, found.PerFrameFunctionalGroupsSequence, strict=True
    ):
        (item,) = group.DerivationImageSequence[0].SourceImageSequence
        source = dcmread(uid_of[item.ReferencedSOPInstanceUID])
        assert item.ReferencedSOPClassUID == source.SOPClassUID
        frame = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        place_mm = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(
            group.PlanePositionSequence[0].ImagePositionPatient, place_mm, atol=1e-6
        )
        z = round(image.TransformPhysicalPointToContinuousIndex([float(v) for v in place_mm])[2])
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(pixels, label[z] == list(ORGANS.values())[number - 1])
        seen += 1
    assert seen == 5
    (of_series,) = found.ReferencedSeriesSequence
    classes = {item.ReferencedSOPClassUID for item in of_series.ReferencedInstanceSequence}
    assert classes == {EnhancedMRImageStorage}
    named = {item.ReferencedSOPInstanceUID for item in of_series.ReferencedInstanceSequence}
    assert named == set(series.instance_uids)
    for uid in series.instance_uids:
        frames = range(1, int(dcmread(uid_of[uid]).NumberOfFrames) + 1)
        read_back = found.get_pixels_by_source_frame(
            uid, frames, combine_segments=True, assert_missing_frames_are_empty=True
        )
        assert read_back.shape[0] == len(frames)


@pytest.mark.parametrize("parts", PARTS)
def test_contours_refer_to_the_frame_that_they_lie_on(tmp_path: Path, parts: str) -> None:
    made = ph.phantom(direction=OBLIQUE)
    series = find_series(write(tmp_path / "scan", made, PARTS[parts]), location="")
    image = read_series(series, location="")
    path = tmp_path / "rs.dcm"
    write_structures(path, Drawing(labels(), image, series, ORGANS, model="ASDNet 1"))
    read = read_structures(path, image, location="", series=series)
    np.testing.assert_array_equal(read["bladder"], labels() == 1)
    headers = {header.SOPInstanceUID: header for header in map(dcmread, series.files)}
    normal = OBLIQUE[:, 2]
    for roi in dcmread(path).ROIContourSequence[:2]:
        for contour in roi.ContourSequence:
            (item,) = contour.ContourImageSequence
            frames = headers[item.ReferencedSOPInstanceUID].PerFrameFunctionalGroupsSequence
            plane = frames[item.ReferencedFrameNumber - 1].PlanePositionSequence[0]
            points = np.reshape(np.asarray(contour.ContourData, float), (-1, 3))
            assert np.abs((points - plane.ImagePositionPatient) @ normal).max() < 1e-3


def test_two_stacks_are_refused(tmp_path: Path) -> None:
    """Two echoes, each whole: that one of them is half a scan must not be said."""
    made = ph.phantom()
    for number, time in enumerate((80.0, 90.0)):

        def echo(frame: Dataset, z: int, time: float = time) -> None:
            item = Dataset()
            item.EffectiveEchoTime = time
            frame.MREchoSequence = [item]

        ph.write_enhanced(tmp_path / f"{number}", made, edit=echo)
    assert refusal(tmp_path) == (
        "holds 2 multi-frame files in one series that do not make one stack (two slices lie on one"
        " position, of several echo times); give each scan, with all its files, a case of its own"
    )


def test_files_of_another_grid_are_refused(tmp_path: Path) -> None:
    made = ph.phantom()
    ph.write_enhanced(tmp_path / "a", made, order=[0, 1, 2])
    other = dataclasses.replace(made, voxels=made.voxels[:, :10])
    ph.write_enhanced(tmp_path / "b", other, order=[3, 4])
    assert "do not make one stack (its slices differ in size" in refusal(tmp_path)


def test_a_gap_between_two_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ph.phantom(), [[0, 1], [3, 4]])
    assert "do not make one stack (its slices are unevenly spaced, 3 to 6 mm)" in refusal(tmp_path)


def test_a_part_of_a_split_file_that_is_missing(tmp_path: Path) -> None:
    path = ph.write_enhanced(tmp_path / "a", ph.phantom(), order=[0, 1, 2])
    header = dcmread(path)
    header.InConcatenationNumber, header.InConcatenationTotalNumber = 1, 2
    ph.save(header, path)
    assert refusal(tmp_path).startswith(": 1 of the 2 files that it was split into")


def test_a_damaged_part(tmp_path: Path) -> None:
    write(tmp_path, ph.phantom(), PARTS["halves"])
    path = tmp_path / "EN1"
    path.write_bytes(path.read_bytes()[:-200])
    assert refusal(tmp_path).startswith(": 1 of its DICOM files cannot be read; copy or export")


def refusal(folder: Path) -> str:
    with pytest.raises(ScanError) as caught:
        read_image(folder, case="1")
    return caught.value.problem.message
