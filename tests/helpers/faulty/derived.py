"""Headers that objects made of a series could not copy: the scan itself is used as it is."""

from collections.abc import Callable

import dicom_phantoms as ph
from bad_cases import Place
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from faulty import Faulty

# Each organ of `bad_cases.organs`: 60 voxels of 0.5 x 0.7 x 3 mm.
VOLUMES_ML = {"bladder": 0.063, "prostate": 0.063}


def put(**values: object) -> ph.Edit:
    def edit(header: Dataset, _: int) -> None:
        for name, value in values.items():
            setattr(header, name, value)

    return edit


def stored(**values: bytes) -> ph.Edit:
    """The bytes of attributes, of an even length, whatever they mean."""

    def edit(header: Dataset, _: int) -> None:
        for name, value in values.items():
            tag = Tag(tag_for_keyword(name))  # type: ignore[arg-type]
            header._dict[tag] = RawDataElement(
                tag, dictionary_VR(tag), len(value), value, 0, False, True
            )

    return edit


def series(edit: ph.Edit) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        with config.disable_value_validation():
            place.dicom(edit=edit)
        place.good_label()

    return make


def shown(*names: str) -> Callable[[Place], str]:
    """What pydicom reads of the first slice, as Python writes it in ASCII."""

    def truth(place: Place) -> str:
        header = dcmread(sorted(place.image("").iterdir())[0], stop_before_pixels=True)
        with config.disable_value_validation():
            return "pydicom: " + ", ".join(f"{n} {str(header.get(n))!a}" for n in names)

    return truth


def used(what: str, edit: ph.Edit, *names: str) -> Faulty:
    return Faulty(
        kind="9",
        what=what,
        make=series(edit),
        truth=shown(*names),
        rule="",
        said="",
        volumes_ml=VOLUMES_ML,
    )


INPUTS = {
    "derived_korean": used(
        "a patient's name in Korean",
        put(SpecificCharacterSet=["", "ISO 2022 IR 149"], PatientName="Kim^Hijung=金^희중=김^희중"),
        "SpecificCharacterSet",
        "PatientName",
    ),
    "derived_japanese": used(
        "a patient's name in Japanese, in two sets of characters",
        put(
            SpecificCharacterSet=["ISO 2022 IR 13", "ISO 2022 IR 87"],
            PatientName="ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        "SpecificCharacterSet",
        "PatientName",
    ),
    "derived_undeclared": used(
        "a name in UTF-8 that no character set is declared for",
        stored(PatientName="山田^太郎 ".encode()),
        "SpecificCharacterSet",
        "PatientName",
    ),
    "derived_bad_dates": used(
        "a time of 25:61, dates of dashes and zeros",
        stored(StudyTime=b"25:61 ", StudyDate=b"2026-01-01", PatientBirthDate=b"00000000"),
        "StudyTime",
        "StudyDate",
        "PatientBirthDate",
    ),
}
