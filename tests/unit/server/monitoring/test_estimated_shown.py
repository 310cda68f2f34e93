"""Estimated scores in MLflow, on the page and in the terminal: marked, beside no measured one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_estimates import estimated
from made_tracked import tracked_study
from round_records import round_record

from protocol.config.study import StudyProtocol
from reporting.blocks import Table
from server.monitoring.follow import Progress, read_events
from server.monitoring.metrics import site_metrics
from server.monitoring.progress import round_line
from server.monitoring.run_folder import EventWriter, RunFolder
from server.monitoring.score_tables import scores_section
from server.monitoring.tracked import TrackedSite
from server.rounds.record import RoundRecord, StudyRecord


@pytest.fixture
def finished(make_protocol: Callable[..., StudyProtocol]) -> RoundRecord:
    return replace(round_record(make_protocol(), 2), evaluation=estimated())


def test_mlflow_has_it_under_a_name_of_its_own(finished: RoundRecord) -> None:
    free = site_metrics(finished, "F")
    assert {name: value for name, value in free.items() if name.startswith("estimated/")} == {
        "estimated/dsc/ball": pytest.approx(0.7),
        "estimated/error/ball": pytest.approx(0.1),
        "estimated/scans/ball": 4.0,
    }
    assert not any(name.startswith(("dsc/", "validation/dsc/")) for name in free)
    assert not any(name.startswith("estimated/") for name in site_metrics(finished, "A"))


def test_the_page_has_a_table_of_its_own(finished: RoundRecord) -> None:
    sites = [
        TrackedSite(
            site=site,
            cases={"validation": 3 if site == "A" else 0},
            metrics={name: {2: value} for name, value in site_metrics(finished, site).items()},
            left_out={},
        )
        for site in "AF"
    ]
    study = tracked_study(sites, best_round=2)
    tables = [block for block in scores_section(study).blocks if isinstance(block, Table)]
    assert [table.name for table in tables] == ["scores_validation", "scores_estimated"]
    assert {row[0] for group in tables[0].groups for row in group.rows} == {"A"}
    assert tables[1].caption.startswith("Estimated, not measured")
    assert tables[1].groups[0].rows == (("F", "ball", "4", "0.70 ± 0.10"),)
    without = replace(study, sites=tuple(sites[:1]))
    names = [block.name for block in scores_section(without).blocks if isinstance(block, Table)]
    assert names == ["scores_validation"]


@pytest.fixture
def record(finished: RoundRecord, make_protocol: Callable[..., StudyProtocol]) -> StudyRecord:
    return StudyRecord(
        run="tiny-1",
        protocol=make_protocol(),
        facts={},
        segmenter={},
        confidence=None,
        rounds=[finished],
    )


def test_the_terminal_says_that_it_is_estimated(record: StudyRecord) -> None:
    assert "estimated DSC F 0.70 ± 0.10" in round_line(record)


def test_a_follower_sees_it_by_organ(record: StudyRecord, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    EventWriter(folder).round_finished(record)
    (event,) = read_events(folder.events)
    progress = Progress()
    progress.apply(event)
    assert progress.dsc["F"] == "estimated ball 0.70 ± 0.10"
    assert progress.dsc["A"] == "ball 0.800"
