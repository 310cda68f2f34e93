"""Whose scan it is: an ID that names nobody says nothing, and a study is one patient's."""

from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from client.data.case import Case, Part
from client.data.leakage import LeakageCheck
from protocol.config.site import SiteConfig

STUDIES = [generate_uid() for _ in range(6)]
Scan = tuple[Part, dict[str, Any]]


def site(tmp_path: Path, **values: Any) -> SiteConfig:
    return SiteConfig.model_validate(
        {
            "site": "A",
            "data": str(tmp_path),
            "cache": str(tmp_path / "cache"),
            "state": str(tmp_path / "state"),
            **values,
        }
    )


def said(
    tmp_path: Path, *scans: Scan, config: SiteConfig | None = None
) -> tuple[list[str], list[str]]:
    """Of each case, what is wrong with it and what is noted; `study` is a number."""
    cases = []
    for number, (part, values) in enumerate(scans):

        def edit(header: Dataset, z: int, values: dict[str, Any] = values) -> None:
            for name, value in values.items():
                if name != "study":
                    setattr(header, name, value)

        made = ph.phantom((2, 4, 4), study_uid=STUDIES[values.get("study", number)])
        folder = ph.write_classic(tmp_path / str(number), made, edit=edit)
        cases.append(Case(name=str(number), part=part, image=folder, label=None))
    check = LeakageCheck(config or site(tmp_path), cases)
    problems = [check.problem(case, case.name) for case in cases]
    return (
        [problem.message if problem else "" for problem in problems],
        [check.note(case) for case in cases],
    )


def person(patient_id: str, name: str = "", birth: str = "", **values: Any) -> dict[str, Any]:
    return {"PatientID": patient_id, "PatientName": name, "PatientBirthDate": birth, **values}


@pytest.mark.parametrize(
    "patient_id",
    [
        "ANONYMOUS",
        "anonymous",
        "Anonymized^",
        "anonymisiert",
        "Anonymous_Patient",
        "DE-IDENTIFIED",
        "removed",
        "0000",
        "XXXX",
        "No_ID",
        "N/A",
        "*",
    ],
)
def test_an_anonymisers_word_names_nobody(tmp_path: Path, patient_id: str) -> None:
    problems, notes = said(
        tmp_path, ("labelled", person(patient_id)), ("test", person(patient_id, "Anon"))
    )
    assert problems == ["", ""]
    assert all(note.startswith("its PatientID names nobody") for note in notes)
    assert not any(patient_id in note for note in notes if len(patient_id) > 1)


def test_scans_of_one_study_are_of_one_patient(tmp_path: Path) -> None:
    for patient_id in ("ANONYMOUS", ""):
        scan = person(patient_id, study=0)
        problems, _ = said(tmp_path / patient_id, ("labelled", scan), ("test", scan))
        assert problems[1].startswith(": another scan of its study is in training too; keep all")


def test_no_id_is_not_noted(tmp_path: Path) -> None:
    assert said(tmp_path, ("labelled", person("")), ("test", person(""))) == (["", ""], ["", ""])


@pytest.mark.parametrize("patient_id", ["4711", "ANON0017", "patient_3", "SUBJ-2"])
def test_an_id_names_one_patient(tmp_path: Path, patient_id: str) -> None:
    problems, notes = said(tmp_path, ("labelled", person(patient_id)), ("test", person(patient_id)))
    assert problems[1].startswith(": its patient is in training too")
    assert notes == ["", ""]


@pytest.mark.parametrize(
    "people",
    [
        [person("SITE1", "a", "19500101"), person("SITE1", "b", "19510101")],
        [person("SITE1", "case_1"), person("SITE1", "case_2")],
        [person("SITE1")] * 5,
        [person("SITE1", "Anon", "19000101")] * 5,
    ],
    ids=["births", "names", "many_studies", "no_birth"],
)
def test_an_id_of_the_whole_site_names_nobody(tmp_path: Path, people: list[dict[str, Any]]) -> None:
    parts: list[Part] = ["labelled", "test", "validation", "unlabelled", "test"]
    problems, notes = said(tmp_path, *zip(parts, people, strict=False))
    assert set(problems) == {""}
    assert all(note.startswith("its PatientID names nobody") for note in notes)


@pytest.mark.parametrize(
    "people",
    [
        [person("4711", "Doe^Jane", "19500101"), person("4711", "Smith^Jane", "19500101")],
        [person("4711", "Doe^Jane", "19500101")] * 5,
        [person("4711")] * 4,
        [person("4711", "a"), person("4711", "A^")],
        [person("4711", "a", "1950"), person("4711", "b", "1951"), person("4712")],
    ],
    ids=["married", "one_person", "few_studies", "one_name", "other_ids"],
)
def test_one_patient_of_a_whole_site(tmp_path: Path, people: list[dict[str, Any]]) -> None:
    parts: list[Part] = ["labelled", "test", "test", "test", "test"]
    problems, notes = said(tmp_path, *zip(parts, people, strict=False))
    assert problems[1].startswith(": its patient is in training too")
    assert set(notes) == {""}


def test_the_sites_table_overrides_headers(tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\n0,a\n1,b\n2,a\n")
    scan = person("ANONYMOUS", study=0)
    problems, notes = said(
        tmp_path,
        ("labelled", scan),
        ("test", scan),
        ("test", person("ANONYMOUS")),
        config=site(tmp_path, patients=str(table)),
    )
    assert problems[:2] == ["", ""]
    assert problems[2].startswith(": its patient is in training too")
    assert notes == ["", "", ""]
