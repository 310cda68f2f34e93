"""Rules between cases: no scan twice, no patient both in training and in validation or test."""

import re
from collections.abc import Collection, Sequence
from functools import cached_property

from client.data.case import (
    Case,
    Part,
)
from client.data.dicom.series import DicomSeries
from client.data.errors import (
    Problem,
    ScanError,
)
from client.data.patients import read_patients
from protocol.config.site import SiteConfig

# Training on another scan of a test patient makes the test's scores too good.
_SIDE: dict[Part, str] = {
    "labelled": "training",
    "unlabelled": "training",
    "validation": "validation",
    "test": "test",
}
# What anonymisers write for a patient's ID, name or date of birth; ANON0017 is one patient.
_NOBODY = re.compile(
    r"(anon[a-z]*|de-?ident[a-z]*|removed|redacted|unknown|none|null|n/?a|no[ _-]?(name|id)?"
    r"|patient|subject|[x0*^ ._-])*",
    re.IGNORECASE,
)
_NO_BIRTHDAY = ("19000101", "19010101", "19700101")
_MANY_STUDIES = 5  # of one ID in all cases of a site, without a date of birth: no one patient's


class LeakageCheck:
    """Takes a site's cases one by one and compares each with those before it.

    Args:
        config: Its `patients` maps cases to patients, where headers don't.
        cases: All of the site: an ID that all of them share may be nobody's.
        others: Names of cases that are refused or excluded, which the file may name too.

    Raises:
        ProtocolError: The file of patients cannot be used.
    """

    def __init__(
        self, config: SiteConfig, cases: Sequence[Case], others: Collection[str] = ()
    ) -> None:
        names = {case.name for case in cases} | {*others}
        self._patients = read_patients(config.patients, names) if config.patients else None
        self._table = self._patients.of_case if self._patients else {}
        self._cases = cases
        self._first_with: dict[str, Case] = {}
        self._side_of: dict[str, Case] = {}

    def problem(self, case: Case, voxel_hash: str) -> Problem | None:
        """What is wrong with this case given those before it; None where nothing is."""
        location = f"{case.part} case {case.name}"
        same = self._first_with.setdefault(voxel_hash, case)
        if same is not case:
            return Problem(
                rule="duplicate",
                location=location,
                message=f": the same scan as one of the {same.part} cases; keep one of the two",
                detail=f"case {same.name}",
            )
        patient = self.patient_of(case)
        if patient is None:
            return None
        other = self._side_of.setdefault(patient, case)
        here, there = _SIDE[case.part], _SIDE[other.part]
        if here == there:
            return None
        whose = "its patient" if self._is_named(case) else "another scan of its study"
        return Problem(
            rule="patient",
            location=location,
            message=f": {whose} is in {there} too; keep all scans of a patient in one of"
            " training, validation and test, or say by `patients` of the site's file whose they"
            " really are",
            detail=f"case {other.name}",
        )

    def patient_of(self, case: Case) -> str | None:
        """Whose scan it is, by the site's table or the DICOM header; never leaves the site.

        An ID that names nobody is passed over; then all scans of a study are one patient's.
        """
        if case.name in self._table:
            return self._table[case.name]
        series = _series(case)
        if series is None:
            return None
        if self._is_named(case):
            return series.patient_id
        return f"study {series.study_uid}" if series.study_uid else None

    def note(self, case: Case) -> str:
        """A line on a case whose header has an ID that names nobody; else empty."""
        series = None if case.name in self._table else _series(case)
        if series is None or not series.patient_id or self._is_named(case):
            return ""
        return (
            "its PatientID names nobody (an anonymiser's, or that of several people), so that only"
            " scans of one study count as one patient's; say by `patients` of the site's file"
            " whose it is"
        )

    def table_lines(self) -> tuple[str, ...]:
        """What the table of patients leaves open, without names."""
        if self._patients is None:
            return ()
        lines = []
        if self._patients.elsewhere:
            lines.append(f"{self._patients.elsewhere} row(s) of `patients` name no case here")
        if unknown := sum(self.patient_of(case) is None for case in self._cases):
            lines.append(
                f"{unknown} case(s) have no row in `patients` and no header that says whose they"
                " are; each counts as a patient of its own"
            )
        return tuple(lines)

    def _is_named(self, case: Case) -> bool:
        """Whether the site's table or its header says whose it is."""
        if case.name in self._table:
            return True
        series = _series(case)
        named = series.patient_id if series else ""
        return not _NOBODY.fullmatch(named) and named != self._shared

    @cached_property
    def _shared(self) -> str:
        """The ID that all scans of the site bear although they are of several people; or empty."""
        found = [series for series in map(_series, self._cases) if series is not None]
        ids = {series.patient_id for series in found}
        births = {_birthday(series) for series in found} - {""}
        names = {series.patient_name.casefold().strip("^ ") for series in found}
        people = {name for name in names if not _NOBODY.fullmatch(name)}
        studies = {series.study_uid for series in found}
        several = len(births) > 1 or (
            not births and (len(people) > 1 or len(studies) >= _MANY_STUDIES)
        )
        return ids.pop() if len(ids) == 1 and several else ""


def _series(case: Case) -> DicomSeries | None:
    try:
        return case.series
    except ScanError:
        return None


def _birthday(series: DicomSeries) -> str:
    birth = series.patient_birth
    return "" if _NOBODY.fullmatch(birth) or birth in _NO_BIRTHDAY else birth
