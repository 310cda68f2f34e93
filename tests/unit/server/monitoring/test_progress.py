"""What is printed where there is no terminal."""

import io
import json
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
from made_scores import sums_of
from rich.console import Console

from asdnet_models.sums import SumCount
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from reporting.logs import JsonFormatter, say_about
from server.monitoring.progress import LogWriter, TerminalWatcher, clock, round_line, sites_line
from server.rounds.record import RoundRecord, StudyRecord


def report(dice: float) -> TrainReport:
    return TrainReport(
        labelled=2,
        unlabelled=1,
        steps=2,
        seconds=1.0,
        losses={
            "dice": SumCount(sum=dice, count=2.0),
            "region": SumCount(sum=0.5, count=2.0),
            "adversarial": SumCount(),
        },
        trusted={
            "background": SumCount(sum=400.0, count=400.0),
            "ball": SumCount(sum=30.0, count=40.0),
        },
    )


@pytest.fixture
def record(make_protocol: Callable[..., StudyProtocol]) -> StudyRecord:
    protocol = make_protocol(training={"rounds": 12})
    facts = SiteFacts(labelled=2, unlabelled=1, validation=1, test=1)
    finished = RoundRecord(
        plan=plan_round(protocol, 3),
        seconds=2.0,
        bytes_down={},
        bytes_up={},
        reports={"A": report(0.4), "B": report(0.8)},
        left_out={"C": "no answer within 5 s"},
        validation_dsc=0.7654,
    )
    return StudyRecord(
        run="tiny-1",
        protocol=protocol,
        facts={"A": facts, "B": facts},
        segmenter={},
        confidence=None,
        rounds=[finished],
    )


def test_one_plain_line_a_round(record: StudyRecord) -> None:
    out = io.StringIO()
    watcher = TerminalWatcher(Console(file=out, width=40))
    watcher.study_started(record)
    watcher.sites_called(3, "train", ["A", "B"])
    watcher.site_answered(3, "A", 1, 2)
    watcher.round_finished(record)
    watcher.study_finished(record)
    lines = out.getvalue().splitlines()
    assert lines[-1].startswith("round   3/12  sites 2  dice 0.300  region 0.250  trusted 75%")
    assert "validation DSC 0.765" in lines[-1]
    assert "left 0:0" in lines[-1]
    assert lines[-1].endswith("left out: C (no answer within 5 s)")
    assert "adversarial" not in lines[-1]
    assert "A 2+1, B 2+1" in " ".join(" ".join(lines[:-1]).split())
    assert "\x1b" not in out.getvalue()


def test_the_site_with_the_lowest_score_stands_beside_the_mean(record: StudyRecord) -> None:
    def scored(dsc: float) -> EvaluationReport:
        sums = {"ball": sums_of(dsc)}
        return EvaluationReport(
            seconds=1.0, cases={"validation": 1}, scores={"validation": sums, "test": {}}
        )

    evaluation = {"A": scored(0.9), "B": scored(0.25)}
    record.rounds[-1] = replace(record.rounds[-1], evaluation=evaluation)
    assert "validation DSC 0.765 (lowest 0.250, B)" in round_line(record)


def test_what_was_not_measured_is_not_printed(record: StudyRecord) -> None:
    out = io.StringIO()
    watcher = TerminalWatcher(Console(file=out, width=200))
    watcher.study_started(record)
    record.rounds[-1] = replace(record.rounds[-1], left_out={}, validation_dsc=None, reports={})
    watcher.round_finished(record)
    line = out.getvalue().splitlines()[-1]
    for word in ("dice", "trusted", "validation", "left out"):
        assert word not in line


def test_a_site_whose_update_was_too_large_is_named(record: StudyRecord) -> None:
    clipped = {"B": {"segmenter": 0.25, "confidence": 1e-6}}
    record.rounds[-1] = replace(record.rounds[-1], left_out={}, clipped=clipped)
    assert round_line(record).endswith(
        "shortened: B (segmenter 4 times too large, confidence 1e+06 times too large)"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (187, "3:07"), (3599.4, "59:59"), (7387, "2:03:07")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_log_of_a_serverapp_has_a_line_for_each_round(
    record: StudyRecord, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    writer = LogWriter("tiny-1")
    try:
        writer.study_started(record)
        writer.sites_called(2, "train", ["A"])
        writer.round_finished(record)
        line = json.loads(JsonFormatter().format(caplog.records[-1]))
        assert (line["run"], line["round"]) == ("tiny-1", 2)
        assert caplog.messages == [sites_line(record), round_line(record)]
    finally:
        say_about()
