"""A header of which any one value is garbage: the case is read, or refused in plain words."""

from pathlib import Path

import dicom_phantoms as ph
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from client.data.case import Case
from client.data.errors import ScanError

GARBAGE = {"text": b"no number\\", "short": b"\x01", "empty": b"", "binary": b"\xff\x00\xfe\x01"}
MORE = {"SpacingBetweenSlices": "3", "RescaleSlope": "1", "RescaleIntercept": "0"}
MORE |= {"ImagesInAcquisition": "5", "AcquisitionNumber": "1", "PatientIdentityRemoved": "NO"}


def garbled(header: Dataset, tag: int, value: bytes) -> None:
    found = Tag(tag)
    vr = header[found].VR
    header[found] = RawDataElement(found, vr, len(value), value, 0, False, True)


def spoil(file: Path, tag: int, value: bytes) -> None:
    header = dcmread(file)
    for name, told in MORE.items():
        setattr(header, name, told)
    garbled(header, tag, value)
    header.save_as(file)


def tags(file: Path) -> list[int]:
    header = dcmread(file)
    for name, told in MORE.items():
        setattr(header, name, told)
    return [int(element.tag) for element in header if element.VR != "SQ"]


@pytest.mark.parametrize("kind", GARBAGE)
def test_any_value_of_a_classic_header(tmp_path: Path, kind: str) -> None:
    original = ph.write_classic(tmp_path / "a", ph.phantom((2, 4, 4)))
    contents = {file: file.read_bytes() for file in sorted(original.iterdir())}
    refused = 0
    for tag in tags(next(iter(contents))):
        for file, content in contents.items():
            file.write_bytes(content)
            spoil(file, tag, GARBAGE[kind])
        refused += not used(original)
    assert refused  # of the position at least


@pytest.mark.parametrize("kind", GARBAGE)
def test_any_value_of_a_multiframe_header(tmp_path: Path, kind: str) -> None:
    file = ph.write_enhanced(tmp_path / "a" / "0", ph.phantom((2, 4, 4)))
    content = file.read_bytes()
    header = dcmread(file)
    for element in list(header):
        if element.VR == "SQ":
            continue
        file.write_bytes(content)
        spoil(file, int(element.tag), GARBAGE[kind])
        used(file.parent)
    for name, inner in (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PixelValueTransformationSequence", "RescaleSlope"),
    ):
        file.write_bytes(content)
        header = dcmread(file)
        item = header.PerFrameFunctionalGroupsSequence[1][name].value[0]
        garbled(item, int(Tag(inner)), GARBAGE[kind])
        header.save_as(file)
        assert not used(file.parent)


def used(folder: Path) -> bool:
    """Any other error than `ScanError` fails the test."""
    case = Case(name="1", part="unlabelled", image=folder, label=None)
    try:
        case.read_scan()
    except ScanError as error:
        assert "Doe" not in str(error)
        return False
    return True
