"""What an object made of a series copies of its header: what is valid, as text in Unicode.

A header may hold what no writer accepts: text in an undeclared character set, dates that are
none, values too long or of another kind.  One such value must not cost the whole object, nor be
passed on, so that it is left out, and its keyword told.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from pydicom import DataElement, Dataset, config
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.tag import BaseTag
from pydicom.valuerep import CUSTOMIZABLE_CHARSET_VR, DA, TM

# Patient, clinical trial, and visit are whole groups (PS3.6); of other groups these are copied.
_GROUPS = (0x0010, 0x0012, 0x0038)
_COPIED = frozenset(
    (
        "AccessionNumber",
        "AdmittingDiagnosesCodeSequence",
        "AdmittingDiagnosesDescription",
        "ConsultingPhysicianName",
        "DeviceSerialNumber",
        "InstitutionAddress",
        "InstitutionName",
        "InstitutionalDepartmentName",
        "IssuerOfAccessionNumberSequence",
        "LossyImageCompression",
        "LossyImageCompressionMethod",
        "LossyImageCompressionRatio",
        "Manufacturer",
        "ManufacturerModelName",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansOfRecord",
        "PositionReferenceIndicator",
        "ProcedureCodeSequence",
        "ReasonForPerformedProcedureCodeSequence",
        "ReasonForVisit",
        "ReferencedPatientSequence",
        "ReferencedStudySequence",
        "ReferringPhysicianName",
        "RequestingService",
        "SoftwareVersions",
        "StationName",
        "StudyDate",
        "StudyDescription",
        "StudyID",
        "StudyTime",
    )
)
# Must be there, and may be empty (PS3.3, C.7.1.1 and C.7.2.1).
NEEDED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_ALLOWED = {
    "PatientSex": ("M", "F", "O"),
    "PatientIdentityRemoved": ("YES", "NO"),
    "LossyImageCompression": ("00", "01"),
}
_NAME_PARTS = 5  # family, given, middle, prefix, suffix
_LINES = ("LT", "ST", "UT")  # text that may have several
_BREAKS = "\r\n\t\f"
_AS_TEXT = CUSTOMIZABLE_CHARSET_VR | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"}
_DATE, _TIME = re.compile(r"\d{8}"), re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


def copied(header: Dataset) -> tuple[Dataset, tuple[str, ...]]:
    """The valid attributes of patient, study and equipment, and the keywords of those left out.

    Those that an object needs are there, empty where they are missing or left out.  Private
    attributes and empty sequences are not copied, and not told.

    Args:
        header: As parsed, in its own character set.
    """
    found, left_out = Dataset(), []
    with _strictly():
        known = _known_character_set(header)
        for tag in [tag for tag, _ in header.items()]:
            if not is_copied(tag):
                continue
            try:
                element = _checked(header[tag], unicode=known)
            except Exception:  # of a parser or validator, of whatever kind
                left_out.append(keyword_for_tag(tag))
                continue
            if element is not None:
                found.add(element)
    for name in NEEDED:
        if name not in found:
            setattr(found, name, "")
    return found, tuple(left_out)


@contextmanager
def _strictly() -> Iterator[None]:
    """pydicom raises at what it would otherwise repair or replace."""
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.RAISE
    try:
        yield
    finally:
        config.settings.reading_validation_mode = before


def is_copied(tag: BaseTag) -> bool:
    """Whether an attribute is one of the patient, the study or the equipment."""
    if tag.is_private or not dictionary_has_tag(tag):
        return False
    return tag.group in _GROUPS or keyword_for_tag(tag) in _COPIED


def _known_character_set(header: Dataset) -> bool:
    """Whether a character set is declared that is known, and is more than plain ASCII."""
    try:
        value = header["SpecificCharacterSet"].value if "SpecificCharacterSet" in header else None
        names = [value] if isinstance(value, str) else list(value or ())
        convert_encodings(names or None)
    except Exception:  # of an unknown name, or a value of another kind
        return False
    return any(name and not name.endswith(" 6") for name in names)


def _checked(element: DataElement, *, unicode: bool) -> DataElement | None:
    """The same value as the standard's kind of it; None of an empty sequence.

    Raises:
        ValueError, and whatever pydicom raises: It is not valid.
    """
    kind = dictionary_VR(element.tag)
    if kind == "SQ":
        items = [_item(item, unicode=unicode) for item in element.value]
        return DataElement(element.tag, kind, items) if items else None
    if element.value is None or element.value == "" or element.VM == 0:
        return DataElement(element.tag, kind, None)
    if dictionary_VM(element.tag) == "1" and element.VM > 1:
        raise ValueError("has several values")
    values = element.value if element.VM > 1 else [element.value]
    if isinstance(element.value, bytes) or " or " in kind:
        raise ValueError("is of another kind")
    for value in values:
        _check_text(element.keyword, kind, str(value), unicode=unicode)
    plain = [
        str(value) if isinstance(value, str) or kind in _AS_TEXT else value for value in values
    ]
    return DataElement(
        element.tag, kind, plain if element.VM > 1 else plain[0], validation_mode=config.RAISE
    )


def _item(item: Dataset, *, unicode: bool) -> Dataset:
    """A sequence's item, of which every value must be valid."""
    found = Dataset()
    own = _known_character_set(item) if "SpecificCharacterSet" in item else unicode
    for tag in [tag for tag, _ in item.items()]:
        if tag.is_private or not dictionary_has_tag(tag):
            continue
        if keyword_for_tag(tag) == "SpecificCharacterSet":
            continue
        element = _checked(item[tag], unicode=own)
        if element is not None:
            found.add(element)
    return found


def _check_text(keyword: str, kind: str, value: str, *, unicode: bool) -> None:
    """Raise what pydicom does not look at.

    Raises:
        ValueError: It is of no valid form, or of characters that nothing declares.
    """
    if kind in CUSTOMIZABLE_CHARSET_VR:
        if not (unicode or value.isascii()):
            raise ValueError("is in a character set that is not declared")
        allowed = _BREAKS if kind in _LINES else ""
        if any(unicodedata.category(c) in ("Cc", "Cs") and c not in allowed for c in value):
            raise ValueError("holds control characters")
        if "\ufffd" in value:
            raise ValueError("was damaged by an earlier conversion")
    elif not value.isascii():
        raise ValueError("is not plain text")
    if kind == "PN":
        groups = value.split("=")
        if any(group.count("^") >= _NAME_PARTS for group in groups):
            raise ValueError("has too many parts")
    if kind == "DA" and not (_DATE.fullmatch(value) and DA(value)):
        raise ValueError("is no date")
    if kind == "TM" and not (_TIME.fullmatch(value.strip()) and TM(value.strip())):
        raise ValueError("is no time")
    if kind == "UI" and not _is_uid(value):
        raise ValueError("is no UID")
    if value.strip() not in _ALLOWED.get(keyword, (value.strip(),)):
        raise ValueError("is none of the values that it may have")


def _is_uid(value: str) -> bool:
    return len(value) <= 64 and re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*", value) is not None
