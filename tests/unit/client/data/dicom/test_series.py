"""A case that is DICOM: the right series of a tree, its geometry, and what is refused."""

import warnings
from collections.abc import Callable
from pathlib import Path

import dicom_phantoms as ph
import numpy as np
import pydicom.uid as uids
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from client.data.dicom.objects import dicom_files, is_dicom_folder, label_objects
from client.data.dicom.series import find_series, read_series, series_grid
from client.data.errors import ScanError
from client.data.files.geometry import same_grid_error
from client.data.files.image_io import read_image

STRUCTURES, REPORT = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.88.11"
SEGMENTS = "1.2.840.10008.5.1.4.1.1.66.4"
OBLIQUE = ph.rotation(7)
FLIPPED = np.diag([1.0, -1.0, -1.0])


def same(read: sitk.Image, made: ph.Phantom) -> None:
    assert same_grid_error(read, made.image) is None
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), made.voxels)


@pytest.mark.parametrize("syntax", ["", *ph.SYNTAXES])
@pytest.mark.parametrize("direction", [np.eye(3), FLIPPED, OBLIQUE], ids=["axial", "flip", "tilt"])
def test_series_is_read_on_its_grid(tmp_path: Path, direction: np.ndarray, syntax: str) -> None:
    made = ph.phantom(direction=direction)
    same(read_series(ph.write_classic(tmp_path, made, syntax=syntax), location="case 1"), made)


@pytest.mark.parametrize("syntax", ["", *ph.SYNTAXES])
def test_frames_are_sorted_and_rescaled_each_by_its_own_slope(tmp_path: Path, syntax: str) -> None:
    made, slopes = ph.phantom(direction=OBLIQUE), [1.0, 0.5, 2.0, 0.25, 4.0]
    ph.write_enhanced(tmp_path / "a", made, order=[3, 0, 4, 1, 2], slopes=slopes, syntax=syntax)
    series = find_series(tmp_path, location="case 1")
    assert series.multiframe
    assert series_grid(series, location="case 1").order == (1, 3, 4, 0, 2)
    read = read_series(series, location="case 1")
    assert same_grid_error(read, made.image) is None
    expected = made.voxels * np.reshape(slopes, (-1, 1, 1))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), expected)


def test_classic_slices_are_rescaled_each_by_its_own_slope(tmp_path: Path) -> None:
    """The first slice's slope of 1 must not make whole numbers of the others."""
    made = ph.phantom()

    def slope(header: Dataset, z: int) -> None:
        header.RescaleSlope, header.RescaleIntercept = str(1 + z / 4), "-3"

    read = read_series(ph.write_classic(tmp_path, made, edit=slope), location="case 1")
    expected = made.voxels * (1 + np.arange(5).reshape(-1, 1, 1) / 4) - 3
    np.testing.assert_allclose(sitk.GetArrayFromImage(read), expected, rtol=1e-6)


def tree(folder: Path) -> ph.Phantom:
    """Study and series folders with a scan, a localizer, labels, a report and an index."""
    made = ph.phantom()
    localizer = ph.phantom((1, 14, 18), study_uid=made.study_uid, description="localizer")
    study = folder / "1.2" / "study"
    ph.write_classic(study / "s2", made)
    ph.write_classic(study / "s1", localizer)
    ph.write_other(study / "rt" / "RS", made, STRUCTURES, "RTSTRUCT")
    ph.write_other(study / "sr" / "SR.dcm", made, REPORT, "SR")
    ph.write_other(study / "seg", made, SEGMENTS, "SEG")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "1.dcm").touch()
    return made


def test_wanted_series_of_a_tree(tmp_path: Path) -> None:
    made = tree(tmp_path)
    assert is_dicom_folder(tmp_path)
    same(read_image(tmp_path, case="1", series_patterns=["x", "T2_*_tra"]), made)
    assert [path.name for path in label_objects(tmp_path, location="case 1")] == ["RS", "seg"]
    assert "DICOMDIR" not in {path.name for path in dicom_files(tmp_path)}
    series = find_series(tmp_path, location="case 1", patterns=["t2*"])
    assert len(series.files) == len(series.instance_uids) == 5
    assert [dcmread(file).SOPInstanceUID for file in series.files] == list(series.instance_uids)
    depths = [float(dcmread(file).ImagePositionPatient[2]) for file in series.files]
    assert depths == sorted(depths)
    assert (series.series_uid, series.study_uid) == (made.series_uid, made.study_uid)
    assert (series.frame_uid, series.patient_id) == (made.frame_uid, "4711")
    assert (series.modality, series.description) == ("MR", "t2_tse_tra")
    assert not series.multiframe
    assert series.identified == ("PatientBirthDate", "PatientID", "PatientName")


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ((), "holds 2 DICOM series; keep exactly one"),
        (["dwi"], "holds 2 DICOM series, of which 0 fit the patterns in `series`"),
        (["t2*", "loc*"], "holds 2 DICOM series, of which 2 fit the patterns in `series`"),
    ],
)
def test_not_one_series(tmp_path: Path, patterns: list[str], message: str) -> None:
    tree(tmp_path)
    with pytest.raises(ScanError, match="localizer, t2_tse_tra") as caught:
        find_series(tmp_path, location="case 1", patterns=patterns)
    assert caught.value.problem.rule == "series"
    assert caught.value.problem.message.startswith(message)
    assert "localizer" not in caught.value.problem.message


@pytest.mark.parametrize("patterns", [(), ["t2*"]])
def test_a_scan_in_two_series_is_not_to_be_halved(tmp_path: Path, patterns: list[str]) -> None:
    for number in range(2):
        ph.write_classic(tmp_path / str(number), ph.phantom())
    with pytest.raises(ScanError, match="or, where they are parts of one scan, export it as one"):
        find_series(tmp_path, location="case 1", patterns=patterns)


def test_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("x" * 200)
    assert not is_dicom_folder(tmp_path)
    with pytest.raises(ScanError, match="holds no readable DICOM series"):
        find_series(tmp_path, location="case 1")


@pytest.mark.parametrize(
    ("name", "birth", "removed", "found"),
    [
        ("Doe^Jane", "19500101", "YES", ()),
        ("Doe^Jane", "19500101", "NO", ("PatientBirthDate", "PatientID", "PatientName")),
        ("ANONYMIZED", "", "", ("PatientID",)),
        ("Anon^^", "00000000", "", ("PatientID",)),
    ],
)
def test_identifiers_are_named(
    tmp_path: Path, name: str, birth: str, removed: str, found: tuple[str, ...]
) -> None:
    def edit(header: Dataset, z: int) -> None:
        header.PatientName, header.PatientBirthDate = name, birth
        header.PatientIdentityRemoved = removed

    folder = ph.write_classic(tmp_path, ph.phantom(), edit=edit)
    assert find_series(folder, location="case 1").identified == found


def test_values_of_the_header_are_in_no_warning_and_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ph.write_classic(tmp_path, ph.phantom())
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes().replace(b"19500101", b"DoeJane7"))
    with warnings.catch_warnings(), caplog.at_level("DEBUG"):
        warnings.simplefilter("error")
        series = find_series(folder, location="case 1")
        read_series(series, location="case 1")
    assert "PatientBirthDate" in series.identified
    assert "Doe" not in caplog.text


def moved(step: dict[int, float]) -> ph.Edit:
    """Slices at other multiples of the spacing."""

    def edit(header: Dataset, z: int) -> None:
        if z in step:
            at = ph.numbers(ph.phantom().position_mm(step[z]))
            group = header.get("PlanePositionSequence", [header])[0]
            group.ImagePositionPatient = at

    return edit


def setting(first: int = 0, **values: object) -> ph.Edit:
    """Values of the slices from the first on."""

    def edit(header: Dataset, z: int) -> None:
        for name, value in values.items():
            if z >= first:
                setattr(header, name, value)

    return edit


def sheared(header: Dataset, z: int) -> None:
    x, y, depth = ph.phantom().position_mm(z)
    group = header.get("PlanePositionSequence", [header])[0]
    group.ImagePositionPatient = ph.numbers((x, y + 0.3 * z, depth))


def several(**values: tuple[object, object]) -> ph.Edit:
    """Slices 1 and 2 on one position, with two values of what tells them apart."""

    def edit(header: Dataset, z: int) -> None:
        moved({2: 1})(header, z)
        for name, pair in values.items():
            setattr(header, name, pair[z >= 2])

    return edit


def echoes(frame: Dataset, z: int) -> None:
    moved({2: 1})(frame, z)
    item = Dataset()
    item.DiffusionBValue = float(z)
    frame.MRDiffusionSequence = [item]


def syntax(uid: str) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        header.compress(uids.RLELossless, generate_instance_uid=False)
        header.file_meta.TransferSyntaxUID = uid

    return edit


def without(name: str) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        if z == 2:
            delattr(header, name)

    return edit


BAD_SLICES: dict[str, tuple[ph.Edit, str, str]] = {
    "missing": (moved({3: 4, 4: 5}), "slices", "unevenly spaced, 3 to 6 mm"),
    "doubled": (moved({2: 1}), "slices", "two slices lie on one position; keep one"),
    "echoes": (several(EchoTime=("80", "90")), "slices", "one position, of several echo times;"),
    "b_values": (several(DiffusionBValue=(0.0, 800.0)), "slices", "of several b-values;"),
    "times": (
        several(TemporalPositionIdentifier=(1, 2), AcquisitionNumber=(1, 2)),
        "slices",
        "of several acquisitions and temporal positions;",
    ),
    "tilted": (
        setting(2, ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6]),
        "slices",
        "tilted to each other",
    ),
    "no_rotation": (
        setting(ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0]),
        "slices",
        "directions of a slice are no rotation",
    ),
    "sheared": (sheared, "slices", "shifted sideways against each other by up to 1.2 mm"),
    "spacing": (setting(2, PixelSpacing=[0.7, 0.6]), "slices", "differ in pixel spacing, 0.5 to"),
    "size": (
        setting(2, Rows=7, Columns=36),
        "slices",
        "differ in size, (7, 36) to (14, 18) voxels",
    ),
    "no_position": (without("ImagePositionPatient"), "slices", "lacks its position, orientation"),
    "no_spacing": (without("PixelSpacing"), "slices", "lacks its position, orientation or pixel"),
    "colours": (setting(SamplesPerPixel=3), "dimensions", "has 3 channels a voxel"),
    "inverted": (
        setting(PhotometricInterpretation="MONOCHROME1"),
        "dimensions",
        "inverted or coloured grey values",
    ),
    "mpeg": (syntax(uids.MPEG2MPML), "format", "compressed in a way that cannot be read (MPEG2"),
    "htj2k": (syntax(uids.HTJ2KLossless), "format", "cannot be read (High-Throughput JPEG 2000"),
}


@pytest.mark.parametrize("name", BAD_SLICES)
def test_bad_slices(tmp_path: Path, name: str) -> None:
    edit, rule, message = BAD_SLICES[name]
    refused(ph.write_classic(tmp_path / "4711", ph.phantom(), edit=edit), rule, message)


def refused(folder: Path, rule: str, message: str) -> None:
    with pytest.raises(ScanError) as caught:
        read_image(folder, case="1")
    problem = caught.value.problem
    assert problem.rule == rule
    assert message in problem.message
    assert not any(word in problem.message for word in ("4711", "IM0", "Doe", "t2_", "ITK"))


BAD_FRAMES: dict[str, tuple[ph.Edit, str]] = {
    "missing": (moved({3: 4, 4: 5}), "unevenly spaced, 3 to 6 mm"),
    "doubled": (moved({2: 1}), "two slices lie on one position; keep one"),
    "b_values": (echoes, "on one position, of several b-values;"),
    "sheared": (sheared, "shifted sideways against each other by up to 1.2 mm"),
    "no_position": (without("PlanePositionSequence"), "lacks its position, orientation"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frames(tmp_path: Path, name: str) -> None:
    edit, message = BAD_FRAMES[name]
    ph.write_enhanced(tmp_path / "a", ph.phantom(), order=[3, 0, 4, 1, 2], edit=edit)
    refused(tmp_path, "slices", message)


def test_two_volumes_of_frames_in_one_series(tmp_path: Path) -> None:
    made = ph.phantom()
    ph.write_enhanced(tmp_path / "a", made)
    ph.write_enhanced(tmp_path / "b", made)
    refused(tmp_path, "slices", "holds 2 multi-frame files in one series that do not make one")


def test_frames_without_a_place(tmp_path: Path) -> None:
    path = ph.write_enhanced(tmp_path / "a", ph.phantom())
    header = dcmread(path)
    del header.PerFrameFunctionalGroupsSequence
    ph.save(header, path)
    refused(tmp_path, "slices", "does not say where each frame lies")


def cut(keep: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * keep)]


@pytest.mark.parametrize("syntax", ["", "jpeg2000"])
@pytest.mark.parametrize("multiframe", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [cut(0.2), cut(0.5), cut(0.9), lambda content: content[:200] + bytes(300) + content[500:]],
    ids=["cut_header", "cut_half", "cut_pixels", "zeros"],
)
def test_damaged_file(
    tmp_path: Path, spoil: Callable[[bytes], bytes], multiframe: bool, syntax: str
) -> None:
    if multiframe:
        ph.write_enhanced(tmp_path / "IM0001", ph.phantom((5, 64, 64)), syntax=syntax)
    else:
        ph.write_classic(tmp_path, ph.phantom((5, 64, 64)), syntax=syntax)
    path = tmp_path / "IM0001"
    path.write_bytes(spoil(path.read_bytes()))
    refused(tmp_path, "damaged", "cannot be read; copy or export the series again")
