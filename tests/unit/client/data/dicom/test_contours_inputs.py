"""Contours and segments that are doubled, sparse or empty, as a site meets them."""

from pathlib import Path

import pytest
from bad_cases import ORGANS, Place
from faulty.contours import INPUTS

from client.data.case import Case
from client.datacheck.inspection import CaseReport, inspect_case
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol


def inspected(root: Path, name: str) -> CaseReport:
    place = Place(root=root, name=name, seed=7)
    INPUTS[name].make(place)
    facts = {"data": root, "cache": root, "state": root} | dict(INPUTS[name].site)
    case = Case(
        name=name,
        part="labelled",
        image=place.image(""),
        label=place.label(".dcm"),
        site=SiteConfig(site="A", **facts),
    )
    return inspect_case(case, StudyProtocol(organs=ORGANS))


@pytest.mark.parametrize("name", INPUTS)
def test_input(tmp_path: Path, name: str) -> None:
    each, report = INPUTS[name], inspected(tmp_path, name)
    if each.rule:
        assert report.problem is not None
        assert report.problem.rule == each.rule
        assert each.said in report.problem.message
        return
    assert report.problem is None
    assert report.measures is not None
    assert each.volumes_ml == pytest.approx(report.measures.volumes_ml, rel=0.01)
    if each.said:
        assert any(each.said in note for note in report.notes)
    else:
        assert report.notes == ()
    assert name not in " ".join(report.notes)
