"""What a command's inputs are taken for."""

import os
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from client.data.errors import ScanError
from client.segmenting.sources import SourceError, find_sources

NOWHERE = Path("/nowhere")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def dicom(path: Path, study: str, frames: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID = meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID = study
    file.Rows = file.Columns = 1
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 7, 0, 1
    file.PhotometricInterpretation = "MONOCHROME2"
    if frames > 1:
        file.NumberOfFrames = frames
    file.PixelData = b"\0\0"
    file.save_as(path)


def found(*inputs: Path, leave_out: Path = NOWHERE) -> dict[str, Path]:
    return {source.name: source.path for source in find_sources(inputs, leave_out=leave_out).scans}


@pytest.mark.parametrize(
    "file", ["a.b.nii.gz", "a.b.nii", "a.b.MHA", "a.b.mhd", "a.b.nrrd", "a.b_0000.nii.gz"]
)
def test_a_file_is_a_case_with_the_name_before_its_suffix(tmp_path: Path, file: str) -> None:
    path = touch(tmp_path / file)
    assert found(path) == {"a.b": path}
    assert found(tmp_path) == {"a.b": path}


def test_a_folder_of_files_and_series_is_many_cases(tmp_path: Path) -> None:
    touch(tmp_path / "one.nii.gz")
    touch(tmp_path / "two.mha")
    touch(tmp_path / "notes.txt")
    touch(tmp_path / "._one.nii.gz")
    dicom(tmp_path / "three" / "1.dcm", "1.2")
    names = found(tmp_path)
    assert list(names) == ["one", "three", "two"]
    assert [source.is_dicom for source in find_sources([tmp_path], leave_out=NOWHERE).scans] == [
        False,
        True,
        False,
    ]


def test_a_series_folder_is_one_case(tmp_path: Path) -> None:
    dicom(tmp_path / "patient" / "1.dcm", "1.2")
    dicom(tmp_path / "patient" / "2.dcm", "1.2")
    assert found(tmp_path / "patient") == {"patient": tmp_path / "patient"}


def test_series_of_one_study_are_one_case_and_of_two_studies_two(tmp_path: Path) -> None:
    for series in ("t1", "t2"):
        dicom(tmp_path / "patient" / series / "1.dcm", "1.2")
    assert found(tmp_path / "patient") == {"patient": tmp_path / "patient"}
    dicom(tmp_path / "patient" / "t2" / "0.dcm", "1.3")
    assert list(found(tmp_path / "patient")) == ["t1", "t2"]


def test_results_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path / "one.nii.gz")
    dicom(tmp_path / "results" / "segmentation.seg.dcm", "1.2")
    assert list(found(tmp_path, leave_out=tmp_path / "results")) == ["one"]


def test_an_input_given_twice_is_one_case(tmp_path: Path) -> None:
    path = touch(tmp_path / "one.nii.gz")
    assert list(found(path, tmp_path, tmp_path / "." / "one.nii.gz")) == ["one"]


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    one, other = touch(tmp_path / "a" / "x.nii.gz"), touch(tmp_path / "b" / "x.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError) as caught:
        found(one, other, tmp_path / "empty", tmp_path / "none")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "empty holds no scan; give scan files" in lines[0]
    assert "none does not exist; correct the path" in lines[1]
    assert lines[2].startswith("case x: is there 2 times")


def test_what_cannot_be_read_is_a_case_and_stops_no_other(tmp_path: Path) -> None:
    touch(tmp_path / "one.nii.gz")
    touch(tmp_path / "two.zip")
    os.symlink("nowhere", tmp_path / "three.nii.gz")
    touch(tmp_path / "caf\udce9.nii.gz")
    touch(tmp_path / "twice.mha")
    touch(tmp_path / "twice.nrrd")
    touch(tmp_path / "notes.txt")
    sources = find_sources([tmp_path, tmp_path / "three.nii.gz"], leave_out=NOWHERE)
    assert sorted(source.name for source in sources.scans) == sorted(
        ["caf\udce9", "one", "three", "twice", "two"]
    )
    assert sources.passed_over == (tmp_path / "notes.txt",)
    [twice] = [source for source in sources.scans if source.name == "twice"]
    with pytest.raises(ScanError, match="is there more than once"):
        twice.check()


def test_a_link_bears_its_own_name(tmp_path: Path) -> None:
    dicom(tmp_path / "store" / "x" / "1.dcm", "1.2")
    os.symlink("store/x", tmp_path / "patient")
    assert found(tmp_path / "patient") == {"patient": tmp_path / "patient"}


def test_scans_beside_the_slices_of_a_case_are_named(tmp_path: Path) -> None:
    dicom(tmp_path / "patient" / "1.dcm", "1.2")
    touch(tmp_path / "patient" / "converted.nii.gz")
    sources = find_sources([tmp_path / "patient"], leave_out=NOWHERE)
    assert [source.name for source in sources.scans] == ["patient"]
    assert sources.passed_over == (tmp_path / "patient" / "converted.nii.gz",)


@pytest.mark.parametrize("name", ["Mu\u0308ller", "M\u00fcller"])
def test_a_name_is_the_same_however_its_letters_are_written(tmp_path: Path, name: str) -> None:
    touch(tmp_path / f"{name}.nii.gz")
    assert list(found(tmp_path)) == ["M\u00fcller"]
    assert list(found(tmp_path / f"{name}.nii.gz")) == ["M\u00fcller"]


def test_volumes_of_dicom_among_scan_files_are_cases_of_their_own(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        dicom(tmp_path / name, "1.2", frames=2)
    touch(tmp_path / "c.nii.gz")
    dicom(tmp_path / "d" / "1.dcm", "1.3")
    assert list(found(tmp_path)) == ["a", "b", "c", "d"]
    (tmp_path / "c.nii.gz").unlink()
    assert list(found(tmp_path)) == ["a", "b", "d"]
    dicom(tmp_path / "slice", "1.2")  # of one frame: the others belong to it
    assert list(found(tmp_path)) == [tmp_path.name]


def test_a_folder_of_scans_in_a_folder_is_told_to_be_an_input(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "imagesTr" / "a.nii.gz")
    touch(tmp_path / "data" / "b.nii.gz")
    sources = {s.name: s for s in find_sources([tmp_path / "data"], leave_out=NOWHERE).scans}
    assert list(sources) == ["b", "imagesTr"]
    sources["b"].check()
    with pytest.raises(ScanError, match="give it as an input of its own"):
        sources["imagesTr"].check()
