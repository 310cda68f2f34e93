"""A hospital's own model, trained without a server."""

from collections.abc import Callable

import pytest

import simulation.local_only
from client.data.dataset import prepare_site
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.local_only import _own_box, train_alone

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]


def test_the_same_seed_gives_the_same_scores(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol()
    first, again = (train_alone(config, protocol) for _ in range(2))
    assert first.cases == {"validation": 1, "test": 1}
    assert (first.dsc, first.asd_mm) == (again.dsc, again.asd_mm)
    # Beside the federation's optimiser states, not over them.
    assert [path.name for path in (config.state / "optimisers").iterdir()] == ["alone"]


def test_the_best_round_is_reported(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, protocol = make_site(), make_protocol(training={"rounds": 3, "local_steps": 1})
    values = iter([0.2, 0.9, 0.4])
    reports = []
    evaluate = simulation.local_only.evaluate_site

    def counted(*arguments: object) -> object:
        reports.append(evaluate(*arguments))  # type: ignore[arg-type]
        return reports[-1]

    monkeypatch.setattr(simulation.local_only, "evaluate_site", counted)
    monkeypatch.setattr(simulation.local_only, "macro_validation_dsc", lambda _: next(values))
    assert train_alone(config, protocol) is reports[1]
    assert len(reports) == 3


def test_without_validation_cases_the_last_model_counts(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site(labelled=1, test=1)
    calls = []
    evaluate = simulation.local_only.evaluate_site
    monkeypatch.setattr(
        simulation.local_only, "evaluate_site", lambda *a: calls.append(1) or evaluate(*a)
    )
    report = train_alone(config, make_protocol(training={"local_steps": 1}))
    assert report.cases == {"validation": 0, "test": 1}
    assert len(calls) == 1


def test_the_box_is_the_sites_own(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    protocol = make_protocol()
    data = prepare_site(make_site(labelled=2), protocol)
    boxes = [case.organ_box for case in data.labelled]
    assert all(box is not None for box in boxes)
    means = [sum(edge) / 2 for edge in zip(*[box for box in boxes if box], strict=True)]
    assert _own_box(data, protocol) == pytest.approx(tuple(means))
    free = prepare_site(make_site("F", unlabelled=1), protocol)
    assert _own_box(free, protocol) is None


def test_gamma_is_calibrated_on_the_places_own_validation_cases(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = make_protocol(
        method={"gamma_rule": "calibrated", "gamma": 0.4},
        training={"rounds": 3, "local_steps": 1},
        evaluation={"every_rounds": 1},
    )
    gammas = []
    train = simulation.local_only.train_round

    def noted(config: object, protocol: object, plan: RoundPlan, *rest: object, run: str) -> object:
        gammas.append(plan.gamma)
        return train(config, protocol, plan, *rest, run=run)  # type: ignore[arg-type]

    monkeypatch.setattr(simulation.local_only, "train_round", noted)
    report = train_alone(make_site(), protocol)
    assert sum(report.reliability["confidence"].right) > 0
    # None until the first scores: the protocol's own holds.
    assert gammas[0] is None
    assert all(gamma is not None and 0 <= gamma < 1 for gamma in gammas[1:])
