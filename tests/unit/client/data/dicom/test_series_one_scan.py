"""Files of one SeriesInstanceUID that are several scans, or acquisitions, on even positions."""

from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from client.data.dicom.series import find_series, series_grid
from client.data.errors import ScanError
from client.data.files.image_io import read_grid, read_image


def some(*places: int, **values: Any) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        header.InstanceNumber = z + 1
        if z in places:
            for name, value in values.items():
                setattr(header, name, value)

    return edit


def frame(**groups: dict[str, Any]) -> ph.Edit:
    """Every second frame has these; of a tuple, the first of them, the others the second."""

    def edit(header: Dataset, z: int) -> None:
        for group, values in groups.items():
            found = header[group].value[0] if group in header else Dataset()
            for name, value in values.items():
                setattr(found, name, value[z % 2] if isinstance(value, tuple) else value)
            setattr(header, group, [found])

    return edit


def refused(folder: Path, rule: str, said: str) -> None:
    for read in (read_image, read_grid):
        with pytest.raises(ScanError) as caught:
            read(folder, case="1")
        assert caught.value.problem.rule == rule
        assert caught.value.problem.message.startswith(said)
        assert "4711" not in caught.value.problem.message


def notes_of(folder: Path, voxels: np.ndarray[Any, Any]) -> list[str]:
    notes: list[str] = []
    image = read_image(folder, case="1", note=notes.append)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), voxels)
    return notes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PatientID", "9999"),
        ("StudyInstanceUID", "1.2.3.4"),
        ("FrameOfReferenceUID", "1.2.3.4"),
        ("Modality", "CT"),
    ],
)
@pytest.mark.parametrize(
    ("places", "said"), [((2,), "1 of its 5 files has"), ((1, 3), "2 of its 5 files have")]
)
def test_a_series_of_two_scans(
    tmp_path: Path, name: str, value: str, places: tuple[int, ...], said: str
) -> None:
    ph.write_classic(tmp_path, ph.phantom(), edit=some(*places, **{name: value}))
    refused(tmp_path, "series", f": {said} another {name} than the rest, under one Series")


def test_multiframe_files_of_two_people(tmp_path: Path) -> None:
    for number, order in enumerate(([0, 1, 2], [3, 4])):
        made = ph.phantom(series_uid="1.2.3", study_uid="1.2", frame_uid="1.2.4")
        file = ph.write_enhanced(tmp_path / f"{number}", made, order=order)
        header = dcmread(file)
        header.PatientID = str(number)
        ph.save(header, file)
    refused(tmp_path, "series", ": 1 of its 2 files has another PatientID than the rest")


def test_a_series_of_which_half_is_anonymised(tmp_path: Path) -> None:
    made = ph.phantom()
    ph.write_classic(tmp_path, made, edit=some(1, 3, PatientID="", FrameOfReferenceUID=""))
    assert notes_of(tmp_path, made.voxels) == [
        f"2 of its 5 files have no {name}, the others have one; look whether all are of one scan"
        for name in ("PatientID", "FrameOfReferenceUID")
    ]


@pytest.mark.parametrize(
    ("values", "rule", "said"),
    [
        ({"EchoTime": "20"}, "slices", "its slices are of several echo times, 20 to 100; keep"),
        ({"ImageType": ["DERIVED", "SECONDARY", "P"]}, "slices", "image types, magnitude and phas"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P_FFE"]}, "slices", "image types, magnitude and p"),
        ({"RescaleSlope": "3", "RescaleIntercept": "0"}, "undefined", "3 of its 5 slices have no"),
        ({"RescaleSlope": "1", "RescaleIntercept": "0"}, "", ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"]}, "", ""),
        ({"EchoTime": "100.2", "AcquisitionNumber": 2, "TriggerTime": "90"}, "", ""),
        ({"AcquisitionTime": "120001", "AcquisitionDate": "20200102"}, "", ""),
    ],
)
def test_slices_of_several_acquisitions(
    tmp_path: Path, values: dict[str, Any], rule: str, said: str
) -> None:
    made = ph.phantom()
    ph.write_classic(tmp_path, made, edit=some(1, 3, **values))
    if not rule:
        assert not notes_of(tmp_path, made.voxels)
        return
    with pytest.raises(ScanError, match=said) as caught:
        read_image(tmp_path, case="1")
    assert caught.value.problem.rule == rule
    with pytest.raises(ScanError, match=said):
        series_grid(find_series(tmp_path, location=""), location="")


def in_turns(**values: tuple[Any, Any]) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        some()(header, z)
        for name, pair in values.items():
            setattr(header, name, pair[z % 2])

    return edit


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"EchoNumbers": (1, 2)}, "echo numbers, 1 to 2"),
        ({"DiffusionBValue": (0.0, 1000.0)}, "b-values, 0 to 1000"),
        (
            {"ImageType": (["DERIVED", "PRIMARY", "DIXON", x] for x in ("WATER", "FAT"))},
            "image types, fat and water",
        ),
        (
            {"ImageType": (["DERIVED", "PRIMARY", "DIFFUSION", x] for x in ("ADC", "TRACEW"))},
            "image types, ADC and trace",
        ),
    ],
)
def test_slices_in_turns(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    edit = in_turns(**{name: tuple(pair) for name, pair in values.items()})
    ph.write_classic(tmp_path, ph.phantom(), edit=edit)
    refused(tmp_path, "slices", f": its slices are of several {said}; keep one acquisition")


def test_slices_of_several_times_are_noted(tmp_path: Path) -> None:
    made = ph.phantom()
    ph.write_classic(tmp_path, made, edit=in_turns(TemporalPositionIdentifier=(1, 2)))
    said = "its slices are of 2 temporal positions; look whether they are one scan"
    assert notes_of(tmp_path, made.voxels) == [said]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"TemporalPositionIdentifier": 2}, "temporal position"),
        ({"DiffusionBValue": 1000.0}, "b-value"),
        ({"EchoNumbers": 2}, "echo number"),
    ],
)
def test_what_some_slices_lack_is_noted(tmp_path: Path, values: dict[str, Any], shown: str) -> None:
    made = ph.phantom()
    ph.write_classic(tmp_path, made, edit=some(1, 3, **values))
    said = f"3 of its 5 slices have no {shown}, the others have one; look whether they are one scan"
    assert notes_of(tmp_path, made.voxels) == [said]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"MREchoSequence": {"EffectiveEchoTime": (20.0, 80.0)}}, "echo times, 20 to 80"),
        ({"MRDiffusionSequence": {"DiffusionBValue": (0.0, 800.0)}}, "b-values, 0 to 800"),
        (
            {"MRImageFrameTypeSequence": {"ComplexImageComponent": ("PHASE", "MAGNITUDE")}},
            "image types, magnitude and phase",
        ),
        (
            {
                "MRImageFrameTypeSequence": {
                    "FrameType": (
                        ["ORIGINAL", "PRIMARY", "M", "NONE"],
                        ["ORIGINAL", "PRIMARY", "P", "NONE"],
                    )
                }
            },
            "image types, magnitude and phase",
        ),
    ],
)
def test_frames_in_turns(tmp_path: Path, groups: dict[str, Any], said: str) -> None:
    ph.write_enhanced(tmp_path / "a", ph.phantom(), edit=frame(**groups))
    refused(tmp_path / "a", "slices", f": its slices are of several {said}; keep one acquisition")


def test_a_slope_of_some_frames(tmp_path: Path) -> None:
    def edit(header: Dataset, z: int) -> None:
        if z < 2:
            del header.PixelValueTransformationSequence

    ph.write_enhanced(tmp_path / "a", ph.phantom(), slopes=[3] * 5, edit=edit)
    refused(tmp_path / "a", "undefined", ": 2 of its 5 slices have no rescale slope, the others")


def test_every_second_frame_is_missing(tmp_path: Path) -> None:
    made = ph.phantom((9, 14, 18))
    numbered = frame(FrameContentSequence={})

    def edit(header: Dataset, z: int) -> None:
        numbered(header, z)
        header.FrameContentSequence[0].InStackPositionNumber = z + 1

    order = [0, 2, 4, 6, 8]
    file = ph.write_enhanced(tmp_path / "a", made, order=order, edit=edit)
    counted = "4 of the numbers of its frames are missing; look whether it is whole"
    assert notes_of(file, made.voxels[order]) == [counted]
    header = dcmread(file)
    shared = header.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = "3.0"
    ph.save(header, file)
    assert notes_of(file, made.voxels[order]) == [
        "its slices are 6 mm apart, its headers say 3 mm; look whether it is whole",
        counted,
    ]
