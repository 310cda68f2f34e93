"""result.json, the tables and the lines that say who gained."""

import csv
import io
import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from made_estimates import estimated
from made_scores import MISSED, seen, sums_of
from rich.console import Console

from asdnet_models.reliability import BINS, Reliability
from asdnet_models.sums import FailureKind, OrganSums, SumCount
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport, SiteFacts, TrainReport
from server.rounds.record import RoundRecord, StudyRecord
from simulation.experiment.single_result import (
    EstimateRow,
    Outcome,
    result_json,
    site_rows,
    write_tables,
)
from simulation.experiment.single_summary import (
    estimate_lines,
    gain_lines,
    health_lines,
    pooled_lines,
    print_summary,
)
from simulation.experiment.store import CaseRow, read_rows


def scored(*dsc: float) -> EvaluationReport:
    ball, rod = sums_of(*(seen(value, 2.0) for value in dsc)), sums_of(*[MISSED] * len(dsc))
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": len(dsc)},
        scores={
            "validation": {"ball": OrganSums(), "rod": OrganSums()},
            "test": {"ball": ball, "rod": rod},
        },
    )


@pytest.fixture
def outcome(make_protocol: Callable[..., StudyProtocol]) -> Outcome:
    protocol = make_protocol(seed=4)
    report = TrainReport(
        labelled=3,
        unlabelled=1,
        steps=2,
        seconds=1.23456,
        losses={"dice": SumCount(sum=1.0, count=2.0), "region": SumCount()},
        trusted={"ball": SumCount(sum=1.0, count=4.0)},
    )
    evaluation = {"A": scored(0.8, 0.9), "B": scored(0.6), "F": scored()}
    rounds = [
        RoundRecord(
            plan=plan_round(protocol, number),
            seconds=2.0,
            bytes_down={"A": 70, "B": 70},
            bytes_up={"A": 60, "B": 50},
            reports={"A": report, "B": report},
            left_out={},
            evaluation=evaluation if number == 2 else None,
        )
        for number in (1, 2)
    ]
    facts = {
        site: SiteFacts(labelled=n, unlabelled=1, validation=0, test=t)
        for site, n, t in (("A", 3, 2), ("B", 3, 1), ("F", 0, 0))
    }
    record = StudyRecord(
        run="tiny-1",
        protocol=protocol,
        facts=facts,
        segmenter={},
        confidence=None,
        rounds=rounds,
        best_round=2,
    )
    withheld = {"ball": sums_of(seen(0.4, 3.0)), "rod": sums_of(seen(0.2, 4.0))}
    return Outcome(
        record=record,
        versions={"flwr": "1.41.0"},
        cohort={"kind": "phantom"},
        withheld={"F": withheld},
        local_only={"A": scored(0.7, 0.7), "B": scored(0.65)},
    )


def test_the_schema(outcome: Outcome) -> None:
    result = json.loads(json.dumps(result_json(outcome), allow_nan=False))
    assert result["protocol"]["organs"] == {"ball": 2, "rod": 5}
    assert (result["seed"], result["versions"]) == (4, {"flwr": "1.41.0"})
    assert [item["round"] for item in result["rounds"]] == [1, 2]
    first = result["rounds"][0]
    assert (first["seconds"], first["bytes_up"], first["bytes_down"]) == (2.0, 110, 140)
    assert first["sites"]["A"] == {
        "loss": {"dice": 0.5},
        "trusted_fraction": 0.25,
        "trusted": {"ball": 0.25},
        "twin_dsc": None,
        "labelled": 3,
        "unlabelled": 1,
        "seconds": 1.235,
    }
    site = result["sites"]["A"]
    assert (site["labelled"], site["unlabelled"], site["test_cases"]) == (3, 1, 2)
    assert site["dsc"]["ball"] == {
        "mean": pytest.approx(0.85),
        "sd": pytest.approx(0.0707107),
        "n": 2,
    }
    assert site["asd_mm"]["rod"] == {"mean": None, "sd": None, "n": 0}
    assert site["hd95_mm"]["ball"]["mean"] == 6.0
    assert site["nsd"]["rod"] == {"mean": 0.0, "sd": 0.0, "n": 2}
    assert site["failures"]["rod"] == {"cases": 2, "missed": 2, "made_up": 0, "far_off": 0}
    assert site["local_only"]["dsc"]["ball"]["mean"] == pytest.approx(0.7)
    assert result["sites"]["B"]["dsc"]["ball"]["sd"] is None  # of one case there is none
    label_free = result["sites"]["F"]
    assert "local_only" not in label_free
    assert (label_free["test_cases"], label_free["dsc"], label_free["asd_mm"]) == (0, {}, {})
    assert label_free["withheld"]["dsc"]["ball"]["mean"] == 0.4
    overall = result["overall"]
    assert overall["dsc"]["ball"]["n"] == 3
    assert overall["dsc"]["ball"]["mean"] == pytest.approx((0.8 + 0.9 + 0.6) / 3)
    assert overall["failures"]["rod"]["missed"] == 3
    assert overall["local_only"]["dsc"]["ball"]["n"] == 3


def test_a_study_without_any_score_is_json_too(outcome: Outcome) -> None:
    outcome.record.best_round = None
    result = json.loads(json.dumps(result_json(outcome), allow_nan=False))
    assert result["sites"]["A"]["test_cases"] == 0
    assert result["overall"]["dsc"] == {}


def test_the_tables(outcome: Outcome, tmp_path: Path) -> None:
    write_tables(outcome, tmp_path / "tables")
    with (tmp_path / "tables" / "sites.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["site"], r["model"], r["organ"]) for r in rows[:4]] == [
        ("A", "federated", "ball"),
        ("A", "federated", "rod"),
        ("A", "local_only", "ball"),
        ("A", "local_only", "rod"),
    ]
    assert len(rows) == len(site_rows(outcome)) == 10
    assert float(rows[0]["dsc_mean"]) == pytest.approx(0.85)
    assert (rows[1]["asd_mm_mean"], rows[1]["failures"]) == ("", "2")
    assert rows[-1]["model"] == "federated_on_withheld"
    with (tmp_path / "tables" / "rounds.csv").open(newline="") as file:
        rounds = list(csv.DictReader(file))
    assert [(r["round"], r["site"]) for r in rounds] == [
        ("1", "A"),
        ("1", "B"),
        ("2", "A"),
        ("2", "B"),
    ]
    assert (rounds[0]["loss_dice"], rounds[0]["loss_region"]) == ("0.5", "")


def test_who_gained(outcome: Outcome) -> None:
    # A: (.85 + 0)/2 against (.7 + 0)/2; B: .6/2 against .65/2.
    assert gain_lines(outcome) == [
        "1 of 2 labelled sites gained from the federation and 0 lost more than another seed may "
        "change, 0.02 in 5 cases, 0.045 in one (mean DSC against local only: A +0.075 in 2 cases, "
        "B -0.025 in 1 case; over sites +0.025)"  # an interval of two would be -0.610 to +0.660
    ]
    alone = {site: scored(0.7) for site in "AC"} | {"B": scored(0.5)}
    record = deepcopy(outcome.record)
    best = record.rounds[1].evaluation
    assert best is not None
    record.rounds[1] = replace(record.rounds[1], evaluation={**best, "C": scored(0.9)})
    (line,) = gain_lines(replace(outcome, record=record, local_only=alone))
    assert line.endswith("over sites +0.075, 95% interval +0.013 to +0.137)")
    # Less than another seed changes is no gain, and nothing is a loss of -0.000.
    alone = {"A": scored(0.84, 0.84), "B": scored(0.6004)}
    (line,) = gain_lines(replace(outcome, local_only=alone))
    assert line.startswith("0 of 2 labelled sites gained from the federation and 0 lost")
    assert "A +0.005 in 2 cases, B +0.000 in 1 case; over sites +0.002" in line
    # Of two cases .035 is more than another seed changes.
    (line,) = gain_lines(replace(outcome, local_only={"A": scored(0.92, 0.92)}))
    assert line.startswith("0 of 1 labelled site gained from the federation and 1 lost more")
    (line,) = gain_lines(replace(outcome, local_only={"A": scored(0.7, 0.7)}))
    assert line.endswith("local only: A +0.075 in 2 cases)")
    assert gain_lines(Outcome(record=outcome.record, versions={}, cohort={})) == []


def test_what_the_federation_reaches_of_pooled_training(outcome: Outcome) -> None:
    assert pooled_lines(outcome) == []
    both = replace(outcome, pooled={"A": scored(0.9, 0.95), "B": scored(0.85), "F": scored()})
    # Two rounds, two sites, two steps each.  ball: 2.3 of 2.7 over three cases; rod: 0.
    assert pooled_lines(both) == [
        "federated reaches 85.2% of the mean DSC of pooled training (0.383 against 0.450), "
        "8 optimiser steps each"
    ]
    rows = [row for row in site_rows(both) if row.model == "pooled_equal_steps"]
    assert [(row.site, row.organ) for row in rows] == [
        ("A", "ball"), ("A", "rod"), ("B", "ball"), ("B", "rod"),
    ]  # fmt: skip
    result = result_json(both)
    assert result["sites"]["A"]["pooled_equal_steps"]["dsc"]["ball"]["mean"] == pytest.approx(0.925)
    assert result["overall"]["pooled_equal_steps"]["dsc"]["ball"]["n"] == 3
    assert [item["steps"] for item in result["rounds"]] == [4, 4]
    out = io.StringIO()
    print_summary(both, Console(file=out, width=160))
    assert "pooled, equal steps" in out.getvalue() and "reaches 85.2%" in out.getvalue()


def last_round(outcome: Outcome, **report: object) -> None:
    """Both sites' report of the last round, changed."""
    finished = outcome.record.rounds[-1]
    reports = {site: replace(r, **report) for site, r in finished.reports.items()}  # type: ignore[arg-type]
    outcome.record.rounds[-1] = replace(finished, reports=reports)


def trained_on(outcome: Outcome) -> None:
    """For long enough to be judged."""
    last_round(outcome, steps=100)


def test_a_map_that_does_not_choose_is_reported(outcome: Outcome) -> None:
    def trusting(organs: float) -> list[str]:
        # Background is trusted whole, which says nothing.
        counts = {"background": 1000.0, "ball": organs}
        totals = {"background": 1000.0, "ball": 100.0}
        last_round(outcome, trusted={n: SumCount(sum=counts[n], count=totals[n]) for n in totals})
        return health_lines(outcome)

    assert trusting(100.0) == []  # after four steps there is nothing to trust
    trained_on(outcome)
    assert trusting(50.0) == []
    assert "trusted 100% to 100% of what is predicted as an organ" in trusting(100.0)[0]
    assert "trusted 1% to 1%" in trusting(1.0)[0]


def test_a_confidence_network_that_knows_nothing_is_reported(outcome: Outcome) -> None:
    trained_on(outcome)
    last_round(outcome, losses={"confidence": SumCount(sum=13.86, count=10)})
    assert "loss is 1.386, 2 ln 2" in health_lines(outcome)[0]
    last_round(outcome, losses={"confidence": SumCount(sum=9.0, count=10)})
    assert health_lines(outcome) == []


def test_what_the_map_knows_is_reported(outcome: Outcome) -> None:
    def counts(*bins: int) -> Reliability:
        right, wrong = ([0] * BINS for _ in range(2))
        right[bins[0]], wrong[bins[1]] = 10, 10
        return Reliability(right=tuple(right), wrong=tuple(wrong))

    best = outcome.record.rounds[-1].evaluation
    assert best is not None
    found = {"confidence": counts(20, 10), "softmax": counts(10, 10)}
    evaluation = {**best, "A": replace(best["A"], reliability=found)}
    outcome.record.rounds[-1] = replace(outcome.record.rounds[-1], evaluation=evaluation)
    assert health_lines(outcome) == [
        "right and wrong voxels of predicted organs, validation cases: AUROC 1.000 by the "
        "confidence map, 0.500 by the largest softmax"
    ]


def test_what_is_printed(outcome: Outcome) -> None:
    out = io.StringIO()
    print_summary(outcome, Console(file=out, width=160))
    text = out.getvalue()
    assert "0.850 (2.00)" in text
    assert re.search(r"0\.000 \(-\) │\n.* 2 missed │", text)
    assert "0.400 (3.00)" in text
    assert "labels known to the study alone" in text
    assert "nan" not in text.lower()


def test_what_is_wrong_is_printed_and_kept_with_the_cases_names(
    outcome: Outcome, tmp_path: Path
) -> None:
    def row(case: str, failure: FailureKind, asd_mm: float | None) -> CaseRow:
        return CaseRow(
            site="A", case=case, part="test", organ="rod", dsc=0.0, asd_mm=asd_mm, failure=failure
        )

    failed = [row("case_1", "far_off", 41.2), *(row(f"c{n}", "missed", None) for n in range(8))]
    outcome = replace(outcome, failed=failed, hints=["rod: 9 of 9 test cases missed"])
    out = io.StringIO()
    print_summary(outcome, Console(file=out, width=400))
    text = out.getvalue()
    assert "look at: rod: 9 of 9 test cases missed" in text
    assert "failed, rod: A case_1 (no overlap, ASD 41 mm), A c0 (missed), " in text
    assert text.rstrip().endswith("A c6 (missed) and 1 more: tables/failed.csv")
    result = json.loads(json.dumps(result_json(outcome), allow_nan=False))
    assert result["hints"] == ["rod: 9 of 9 test cases missed"]
    assert [item["case"] for item in result["failed"]][:2] == ["case_1", "c0"]
    write_tables(outcome, tmp_path)
    assert [r.case for r in read_rows(tmp_path / "failed.csv", CaseRow)][:2] == ["case_1", "c0"]
    # By organ, every score of all sites: DSC and ASD first.
    assert re.search(r"ball +│ +3 │ 0\.767 │ +2\.00 │ +6\.00 │ +0\.767 │ +none", text)


def test_what_is_estimated_stands_beside_the_truth_and_among_no_scores(
    outcome: Outcome, tmp_path: Path
) -> None:
    write_tables(outcome, tmp_path)
    assert not (tmp_path / "estimates.csv").exists()
    before = result_json(outcome)["overall"]
    outcome.record.rounds[-1] = replace(outcome.record.rounds[-1], evaluation=estimated())
    result = json.loads(json.dumps(result_json(outcome), allow_nan=False))
    assert result["sites"]["F"]["estimated"] == {
        "ball": {
            "scans": 4,
            "estimated_dsc": pytest.approx(0.7),
            "error": pytest.approx(0.1),
            "map": "softmax",
            "cases": 3,
            "sites": 1,
            "true_dsc": 0.4,
            "true_cases": 1,
            "off_by": pytest.approx(0.3),
        }
    }
    assert "estimated" not in result["sites"]["A"]
    assert result["sites"]["F"]["dsc"] == {}
    assert result["overall"]["withheld"] == before["withheld"]
    write_tables(outcome, tmp_path)
    (row,) = read_rows(tmp_path / "estimates.csv", EstimateRow)
    assert (row.site, row.organ, row.off_by) == ("F", "ball", pytest.approx(0.3))
    assert estimate_lines(outcome) == [
        "estimated from 4 unlabelled scans, not measured: F DSC ball 0.70 ± 0.10 (true 0.40)"
    ]
