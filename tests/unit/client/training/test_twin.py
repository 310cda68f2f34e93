"""The supervised twin of a round: what it is told of, and that it leaves the site as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import client.training.twin
from asdnet_models.methods.common import NonFiniteLossError
from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.sums import SumCount
from client.data.cohort import site_of_run
from client.training.round import RoundResult, train_round
from client.training.twin import with_twin
from protocol.config.schedule import RoundPlan, plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.weights import Weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]

RUN = "tiny-1"
PARTS = {"labelled": 2, "unlabelled": 2, "validation": 3}


def trained(config: SiteConfig, protocol: StudyProtocol, plan: RoundPlan) -> RoundResult:
    """A round as the site answers it."""
    data, _ = site_of_run(config, protocol, RUN)
    sent = {
        SEGMENTER: wire_weights(build_segmenter(protocol).state_dict()),
        CONFIDENCE: wire_weights(build_confidence(protocol).state_dict()),
    }
    result = train_round(config, protocol, plan, data, sent[SEGMENTER], sent[CONFIDENCE], run=RUN)
    return with_twin(config, protocol, plan, data, sent, result, run=RUN)


def with_setting(config: SiteConfig) -> SiteConfig:
    return config.model_copy(update={"twin": True})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.pt")}


def test_a_twin_changes_neither_the_update_nor_the_sites_state(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    alone = trained(make_site("A", threshold=3, **PARTS), protocol, plan_round(protocol, 1))
    assert alone.report.twin == SumCount()
    site = make_site("A", threshold=3, **PARTS)
    before = files(site.state)
    both = trained(with_setting(site), protocol, plan_round(protocol, 1))
    assert all(torch.equal(alone.segmenter[n], both.segmenter[n]) for n in alone.segmenter)
    assert files(site.state).keys() == before.keys()
    assert {p.name for p in site.state.iterdir()} == {"optimisers", "cohorts"}


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever is scored first is better than the second by .2, .1 and .3 in its three cases."""
    asked: list[str] = []

    def scores(
        config: SiteConfig, protocol: StudyProtocol, weights: Weights, cases: list[object]
    ) -> dict[str, float]:
        asked.append("update" if not asked else "twin")
        gains = (0.2, 0.1, 0.3) if asked[-1] == "update" else (0.0,) * 3
        return {c.key: 0.5 + g for c, g in zip(cases, gains, strict=True)}  # type: ignore[attr-defined]

    monkeypatch.setattr(client.training.twin, "_scores", scores)
    return asked


def test_the_sum_is_of_the_update_less_the_twin(
    make_site: MakeSite, make_protocol: MakeProtocol, apart: list[str]
) -> None:
    protocol = make_protocol()
    site = with_setting(make_site(threshold=3, **PARTS))
    twin = trained(site, protocol, plan_round(protocol, 1)).report.twin
    assert (twin.count, twin.sum) == (3, pytest.approx(0.6))
    assert apart == ["update", "twin"]


def test_where_there_is_nothing_to_compare_nothing_is_trained_twice(
    make_site: MakeSite, make_protocol: MakeProtocol, apart: list[str]
) -> None:
    protocol = make_protocol(evaluation={"every_rounds": 2})
    site = with_setting(make_site("A", threshold=3, **PARTS))
    assert trained(site, protocol, plan_round(protocol, 1)).report.twin == SumCount()  # not due
    few = with_setting(make_site("B", threshold=4, **PARTS))
    assert trained(few, protocol, plan_round(protocol, 2)).report.twin == SumCount()
    own = with_setting(make_site("C", threshold=3, labelled=2, validation=3))
    assert trained(own, protocol, plan_round(protocol, 2)).report.twin == SumCount()
    free = with_setting(make_site("D", unlabelled=3))
    assert trained(free, protocol, plan_round(protocol, 2)).report.twin == SumCount()
    assert apart == []


def test_a_twin_that_breaks_down_costs_no_update(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> RoundResult:
        raise NonFiniteLossError("loss is nan")

    protocol = make_protocol()
    monkeypatch.setattr(client.training.twin, "train_round", broken)
    site = with_setting(make_site(threshold=3, **PARTS))
    assert trained(site, protocol, plan_round(protocol, 1)).report.twin == SumCount()


def test_a_method_with_a_teacher_has_a_twin_too(
    make_site: MakeSite, make_protocol: MakeProtocol, apart: list[str]
) -> None:
    protocol = make_protocol(method={"name": "copy-paste"}, training={"rounds": 4})
    site = with_setting(make_site(threshold=3, **PARTS))
    assert trained(site, protocol, plan_round(protocol, 3)).report.twin.count == 3
