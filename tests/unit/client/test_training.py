"""One round of training at one site, against the equalities that the method promises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import client.training
from asdnet_models.methods.asdnet import NonFiniteLossError
from asdnet_models.networks import build_confidence, build_segmenter
from client.dataset import SiteData, prepare_site
from client.training import NothingToTrainError, RoundResult, train_round
from protocol.messages import Weights, wire_weights
from protocol.schedule import RoundPlan, plan_round
from protocol.sites import SiteConfig
from protocol.study import StudyProtocol

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]


def equal(a: Weights | None, b: Weights | None) -> bool:
    assert a is not None
    assert b is not None
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def plan(number: int = 1, **changes: Any) -> RoundPlan:
    content = {"round": number, "lr_factor": 1.0, "adversarial_ramp": 1.0, "region_ramp": 1.0}
    return RoundPlan.model_validate(content | changes)


def start(protocol: StudyProtocol) -> tuple[Weights, Weights]:
    return (
        wire_weights(build_segmenter(protocol).state_dict()),
        wire_weights(build_confidence(protocol).state_dict()),
    )


def two_rounds(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData, *, forget: bool = False
) -> RoundResult:
    segmenter, confidence = start(protocol)
    result = train_round(config, protocol, plan(1), data, segmenter, confidence)
    if forget:
        (config.state / "optimisers.pt").unlink()
    return train_round(config, protocol, plan(2), data, result.segmenter, result.confidence)


def test_the_same_seed_gives_the_same_weights(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol()
    data = prepare_site(config, protocol)
    first, again = (two_rounds(config, protocol, data) for _ in range(2))
    assert equal(first.segmenter, again.segmenter)
    assert equal(first.confidence, again.confidence)
    other = make_protocol(seed=5)
    changed = train_round(config, other, plan(), data, *start(protocol))
    one = train_round(config, protocol, plan(), data, *start(protocol))
    assert not equal(changed.segmenter, one.segmenter)


def test_the_optimiser_is_kept_between_rounds(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol()
    data = prepare_site(config, protocol)
    kept = two_rounds(config, protocol, data)
    forgotten = two_rounds(config, protocol, data, forget=True)
    assert not equal(kept.segmenter, forgotten.segmenter)
    assert not equal(kept.confidence, forgotten.confidence)


def test_two_rounds_of_one_site_are_central_training(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rounds of two steps against one of four, on the same patches."""
    short = make_protocol(training={"augment": False})
    config = make_site()
    data = prepare_site(config, short)
    draw, drawn = client.training._draw, []

    def recorded(*arguments: Any) -> Any:
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(client.training, "_draw", recorded)
    federated = two_rounds(config, short, data)
    assert len(drawn) == 4
    patches = iter(drawn)
    monkeypatch.setattr(client.training, "_draw", lambda *_: next(patches))
    long = make_protocol(training={"augment": False, "local_steps": 4})
    alone = config.model_copy(update={"state": config.state / "central"})
    central = train_round(alone, long, plan(1), data, *start(long))
    assert equal(federated.segmenter, central.segmenter)
    assert equal(federated.confidence, central.confidence)


def test_the_first_round_forgets_an_earlier_study(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol()
    data = prepare_site(config, protocol)
    first = train_round(config, protocol, plan(), data, *start(protocol))
    again = train_round(config, protocol, plan(), data, *start(protocol))
    assert equal(first.segmenter, again.segmenter)


def test_a_round_measures_what_it_did(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config = make_site(labelled=3, unlabelled=2)
    protocol = make_protocol(method={"sample_attention": "literal"})
    data = prepare_site(config, protocol)
    report = train_round(config, protocol, plan(), data, *start(protocol)).report
    assert (report.labelled, report.unlabelled, report.steps) == (3, 2, 2)
    for name in ("total", "dice", "adversarial", "region", "confidence"):
        assert report.losses[name].count == 2
    assert report.attention.count == 2
    assert set(report.trusted) == {"background", "ball", "rod"}
    assert sum(t.count for t in report.trusted.values()) == 2 * 16**3


def test_the_rate_follows_the_plan(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"local_steps": 1, "weight_decay": 0.0})
    config = make_site()
    data = prepare_site(config, protocol)
    segmenter, confidence = start(protocol)

    def step(factor: float) -> float:
        made = train_round(
            config, protocol, plan(lr_factor=factor), data, segmenter, confidence
        ).segmenter
        return max(float((made[n] - segmenter[n]).abs().max()) for n in made)

    # Adam's first step is the rate itself wherever the gradient is not nought.
    assert step(1.0) == pytest.approx(1e-3, rel=0.02)
    assert step(0.1) == pytest.approx(1e-4, rel=0.02)


def test_a_label_free_site_trains_s_and_leaves_d(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, config = make_protocol(), make_site(unlabelled=2)
    data = prepare_site(config, protocol)
    segmenter, confidence = start(protocol)
    seen = []
    build = client.training._networks

    def watched(*arguments: Any) -> Any:
        seen.append(build(*arguments))
        return seen[-1]

    monkeypatch.setattr(client.training, "_networks", watched)
    result = train_round(config, protocol, plan(), data, segmenter, confidence)
    assert result.confidence is None
    assert not equal(result.segmenter, segmenter)
    assert equal(wire_weights(seen[0].confidence.state_dict()), confidence)
    assert all(p.grad is None for p in seen[0].confidence.parameters())
    assert "dice" not in result.report.losses
    assert result.report.losses["adversarial"].count == 2


def test_the_proximal_term_holds_a_label_free_site_back(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(unlabelled=2)

    def moved(mu: float) -> float:
        protocol = make_protocol(training={"proximal_mu": mu, "local_steps": 6})
        segmenter, confidence = start(protocol)
        data = prepare_site(config, protocol)
        made = train_round(config, protocol, plan(), data, segmenter, confidence).segmenter
        return sum(float(((made[n] - segmenter[n]) ** 2).sum()) for n in made)

    assert moved(1e4) < 0.7 * moved(0.0)


def test_nothing_to_train_in_warm_up(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    protocol, config = make_protocol(), make_site(unlabelled=1)
    data = prepare_site(config, protocol)
    resting = plan(adversarial_ramp=0.0, region_ramp=0.0)
    with pytest.raises(NothingToTrainError, match="warm-up"):
        train_round(config, protocol, resting, data, *start(protocol))
    assert not config.state.exists()


def test_a_site_without_unlabelled_scans(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    protocol, config = make_protocol(), make_site(labelled=2)
    data = prepare_site(config, protocol)
    segmenter, confidence = start(protocol)
    result = train_round(config, protocol, plan(), data, segmenter, confidence)
    assert not equal(result.segmenter, segmenter)
    assert not equal(result.confidence, confidence)
    assert result.report.trusted_fraction is None
    assert result.report.losses["adversarial"].count == 2  # Eq. 5 is of labelled patches too
    assert "region" not in result.report.losses


def test_without_lambdas_there_is_no_d(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    plain = make_protocol(method={"lambda_adversarial": 0.0, "lambda_region": 0.0})
    config = make_site()
    data = prepare_site(config, plain)
    segmenter, confidence = start(plain)
    of_plan = plan_round(plain, 1)
    with_d = train_round(config, plain, of_plan, data, segmenter, confidence)
    without = train_round(config, plain, of_plan, data, segmenter, None)
    assert with_d.confidence is None
    assert equal(with_d.segmenter, without.segmenter)
    assert set(with_d.report.losses) == {"total", "dice"}


def test_warm_up_is_supervised_training_of_s(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(labelled=2)
    full = make_protocol()
    plain = make_protocol(method={"lambda_adversarial": 0.0, "lambda_region": 0.0})
    data = prepare_site(config, full)
    resting = plan(adversarial_ramp=0.0, region_ramp=0.0)
    warm = train_round(config, full, resting, data, *start(full))
    supervised = train_round(config, plain, resting, data, *start(plain))
    assert equal(warm.segmenter, supervised.segmenter)
    assert not equal(warm.confidence, start(full)[1])  # D learns meanwhile


def test_a_non_finite_loss_leaves_the_stored_state(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol, config = make_protocol(), make_site()
    data = prepare_site(config, protocol)
    good = train_round(config, protocol, plan(1), data, *start(protocol))
    stored = (config.state / "optimisers.pt").read_bytes()
    broken = {name: torch.full_like(w, float("nan")) for name, w in good.segmenter.items()}
    with pytest.raises(NonFiniteLossError):
        train_round(config, protocol, plan(2), data, broken, good.confidence)
    assert (config.state / "optimisers.pt").read_bytes() == stored
    assert [path.name for path in config.state.iterdir()] == ["optimisers.pt"]


def test_a_late_site_starts_with_fresh_moments(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, earlier = make_site(), make_protocol(network={"width": 4})
    data = prepare_site(config, earlier)
    train_round(config, earlier, plan(1), data, *start(earlier))
    protocol = make_protocol()
    late = train_round(config, protocol, plan(2), data, *start(protocol))
    fresh = config.model_copy(update={"state": config.state / "fresh"})
    expected = train_round(fresh, protocol, plan(2), data, *start(protocol))
    assert equal(late.segmenter, expected.segmenter)
