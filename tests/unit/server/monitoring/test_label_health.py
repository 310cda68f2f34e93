"""The health of pseudo-labels: when it is said to be bad, and what the page shows."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from made_scores import sums_of
from made_tracked import tracked_study
from round_records import round_record

from asdnet_models.sums import OrganSums, SumCount
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport, TrainReport
from server.monitoring.label_health import health_table
from server.monitoring.label_hints import label_lines
from server.monitoring.tracked import TrackedSite
from server.rounds.record import StudyRecord

MakeProtocol = Callable[..., StudyProtocol]


def report(trusted: float | None = 0.5, agreement: float | None = None) -> TrainReport:
    return TrainReport(
        labelled=3,
        unlabelled=3,
        steps=100,
        seconds=1.0,
        losses={} if agreement is None else {"agreement": SumCount(sum=agreement * 4, count=4)},
        trusted={
            "background": SumCount(sum=1000, count=1000),
            "ball": SumCount() if trusted is None else SumCount(sum=trusted * 500, count=500),
        },
    )


def scored(dsc: float) -> EvaluationReport:
    nothing = {"ball": OrganSums(), "rod": OrganSums()}
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 3, "test": 0},
        scores={"validation": nothing | {"ball": sums_of(*[dsc] * 3)}, "test": nothing},
    )


def study(protocol: StudyProtocol, reports: Sequence[TrainReport], dsc: float) -> StudyRecord:
    """One site's rounds; the last is scored."""
    rounds = [
        replace(round_record(protocol, number), reports={"A": of_round}, evaluation=None)
        for number, of_round in enumerate(reports, 1)
    ]
    rounds[-1] = replace(rounds[-1], evaluation={"A": scored(dsc)})
    return StudyRecord(
        run="tiny-1",
        protocol=protocol,
        facts={},
        segmenter={},
        confidence=None,
        rounds=rounds,
        best_round=len(rounds),
    )


@pytest.mark.parametrize(
    ("trusted", "dsc", "said"),
    [
        (0.5, 0.6, None),
        (None, 0.6, None),  # nothing was predicted, or Eq. 6 did not run
        (
            0.01,
            0.9,
            "ball: 1.0% of what is predicted of it in unlabelled scans is trusted, so that",
        ),
        (0.99, 0.6, "trusted, at a mean DSC of 0.60: nothing is chosen, and mistakes"),
        (0.99, 0.9, None),  # where nearly all is right, nearly all is to be trusted
    ],
)
def test_trust_that_has_collapsed(
    make_protocol: MakeProtocol, trusted: float | None, dsc: float, said: str | None
) -> None:
    record = study(make_protocol(), [report(trusted)], dsc)
    lines = list(label_lines(record))
    assert lines == [] if said is None else said in lines[0]


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ({"gamma": 0.9}, "try a method.gamma below 0.9"),
        ({"gamma_rule": "quantile"}, "try a method.trusted_share above 0.5"),
        ({"gamma_rule": "calibrated"}, "try a method.trusted_precision below 0.95"),
    ],
)
def test_the_setting_that_decides_is_named(
    make_protocol: MakeProtocol, method: dict[str, object], remedy: str
) -> None:
    (line,) = label_lines(study(make_protocol(method=method), [report(0.0)], 0.9))
    assert line.endswith(remedy)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "copy-paste", "gate": "none"},
        {"name": "copy-paste", "gate": "weight"},
        {"name": "mean-teacher"},
        {"name": "ua-mt"},
        {"name": "cross-pseudo"},
    ],
)
def test_where_no_setting_chooses_none_is_named(
    make_protocol: MakeProtocol, method: dict[str, object]
) -> None:
    for trusted in (0.01, 1.0):
        record = study(make_protocol(method=method), [report(trusted)], 0.6)
        assert list(label_lines(record)) == []


def test_a_softmax_is_never_calibrated_and_gamma_stays_what_decides(
    make_protocol: MakeProtocol,
) -> None:
    method = {"name": "copy-paste", "gate": "softmax", "gamma_rule": "calibrated", "gamma": 0.9}
    (line,) = label_lines(study(make_protocol(method=method), [report(0.0)], 0.9))
    assert line.endswith("try a method.gamma below 0.9")


def test_an_agreement_that_falls(make_protocol: MakeProtocol) -> None:
    def lines(*agreement: float) -> list[str]:
        reports = [report(agreement=value) for value in agreement]
        return list(label_lines(study(make_protocol(), reports, 0.9)))

    assert lines(0.8, 0.8, 0.8, 0.8, 0.8, 0.8) == []
    assert lines(0.3, 0.5, 0.6, 0.7, 0.8, 0.8) == []
    (line,) = lines(0.8, 0.9, 0.85, 0.6, 0.7, 0.65)
    assert line.startswith(
        "site A: the model and its teacher agree on 65% of the organs' voxels in unlabelled scans, "
        "it was 85%"
    )
    assert lines(0.9, 0.9, 0.9, 0.3) == []  # too few rounds to say
    assert lines(0.9, 0.9, 0.9, 0.9, 0.9, 0.7) == []  # one bad round is none


def test_the_page_has_a_line_for_each_site_that_labels() -> None:
    def site(name: str, **metrics: float) -> TrackedSite:
        series = {key.replace("__", "/"): {1: 0.0, 4: value} for key, value in metrics.items()}
        return TrackedSite(site=name, cases={}, metrics=series, left_out={})

    study_ = tracked_study(
        [
            site("A", trusted_fraction__ball=0.75, loss__agreement=0.9, twin__dsc=-0.0125),
            site("B", loss__dice=0.5),
            site("F", loss__drift=0.01),
        ],
        best_round=4,
    )
    (table,) = health_table(study_)
    assert table.header == (
        "site", "trusted, ball", "trusted, rod", "agreement", "drift", "gain by unlabelled scans",
    )  # fmt: skip
    assert table.groups[0].rows == (
        ("A", "0.750", "-", "0.900", "-", "-0.013"),
        ("F", "-", "-", "-", "0.010", "-"),
    )
    assert health_table(replace(study_, sites=study_.sites[1:2])) == []
