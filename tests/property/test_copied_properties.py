"""Whatever bytes a header holds, what is copied of it can be written, and reads the same."""

import struct
from io import BytesIO

from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from client.data.dicom.derived.copied import NEEDED, copied
from client.data.dicom.headers import quiet

SETS = (
    b"",
    b"ISO_IR 6",
    b"ISO_IR 100",
    b"ISO_IR 13",
    b"ISO_IR 192",
    b"GB18030",
    b"\\ISO 2022 IR 87",
    b"ISO 2022 IR 13\\ISO 2022 IR 87",
    b"\\ISO 2022 IR 149",
    b"nonsense",
)
NAMES = (
    *NEEDED,
    "PatientAge",
    "PatientWeight",
    "StudyDescription",
    "OtherPatientIDs",
    "AdmissionID",
)
TEXT = st.one_of(
    st.binary(max_size=24),
    st.text("0123456789.:-^=\\ MFYabcÄ山김", max_size=80).map(str.encode),
)


def header_of(character_set: bytes, values: dict[str, bytes]) -> Dataset:
    """As a parser leaves it, of bytes that no library has written."""
    content = b""
    for tag, value in sorted(
        (Tag(tag_for_keyword(name)), value)  # type: ignore[arg-type]
        for name, value in {"SpecificCharacterSet": character_set, **values}.items()
    ):
        padded = value + b" " * (len(value) % 2)
        kind = dictionary_VR(tag).encode()
        content += struct.pack("<2H2sH", tag.group, tag.element, kind, len(padded)) + padded
    return dcmread(BytesIO(content), force=True)


def written(dataset: Dataset) -> Dataset:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    content.seek(0)
    return dcmread(content)


@given(st.sampled_from(SETS), st.dictionaries(st.sampled_from(NAMES), TEXT, max_size=6))
@example(b"\\ISO 2022 IR 149", {"PatientName": b"Kim=\x1b$)C\xd1\xce"})
@example(b"ISO_IR 192", {"PatientName": b"\xc3"})
@quiet()
def test_a_copy_can_be_written_and_reads_the_same(
    character_set: bytes, values: dict[str, bytes]
) -> None:
    found, left_out = copied(header_of(character_set, values))
    assert set(left_out) <= set(values)
    assert all(name in found for name in NEEDED)
    assert not any(found.get(name) for name in left_out)
    found.SpecificCharacterSet = "ISO_IR 192"
    found.SOPClassUID, found.SOPInstanceUID = MRImageStorage, "1.2.3"
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        again = written(found)
        for element in found:
            assert str(again[element.tag].value or "") == str(element.value or "").rstrip(" \0")
    finally:
        config.settings.reading_validation_mode = before
