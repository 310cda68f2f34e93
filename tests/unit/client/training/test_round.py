"""One round of training at one site, against the equalities that the method promises."""

import shutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import client.training.round
import client.training.totals
from asdnet_models.catalogue import NETWORKS
from asdnet_models.methods.common import NonFiniteLossError
from asdnet_models.networks import build_confidence, build_segmenter
from client.data.dataset import (
    PatchSampler,
    SiteData,
    prepare_site,
)
from client.training.round import NothingToTrainError, RoundResult, train_round
from protocol.config.presets import preset
from protocol.config.schedule import RoundPlan, plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.wire.weights import Weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]

RUN = "tiny-1"


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
    result = train_round(config, protocol, plan(1), data, segmenter, confidence, run=RUN)
    if forget:
        shutil.rmtree(config.state / "optimisers")
    return train_round(
        config, protocol, plan(2), data, result.segmenter, result.confidence, run=RUN
    )


def test_the_same_seed_gives_the_same_weights(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol()
    data = prepare_site(config, protocol)
    first, again = (two_rounds(config, protocol, data) for _ in range(2))
    assert equal(first.segmenter, again.segmenter)
    assert equal(first.confidence, again.confidence)
    other = make_protocol(seed=5)
    changed = train_round(config, other, plan(), data, *start(protocol), run=RUN)
    one = train_round(config, protocol, plan(), data, *start(protocol), run=RUN)
    assert not equal(changed.segmenter, one.segmenter)


def test_the_planned_recipe_trains_and_repeats(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    """Dice with cross-entropy, strong views, a bounded gradient and an informed D, all at once."""
    recipe = preset("planned").model_dump()
    recipe["training"] |= {"rounds": 2, "local_steps": 2, "batch_size": 2}
    recipe["confidence"]["width"] = 2
    sections = ("confidence", "method", "training")
    protocol = make_protocol(**{name: recipe[name] for name in sections})
    config = make_site(labelled=3, unlabelled=2)
    data = prepare_site(config, protocol)
    first, again = (two_rounds(config, protocol, data) for _ in range(2))
    assert equal(first.segmenter, again.segmenter)
    assert equal(first.confidence, again.confidence)
    weak = make_protocol(**{name: recipe[name] for name in sections})
    weak = merged(weak, {"training": {"views": "weak"}})
    assert not equal(two_rounds(config, weak, data).segmenter, first.segmenter)


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
    short = make_protocol(training={"views": "none"})
    config = make_site()
    data = prepare_site(config, short)
    draw, drawn = client.training.round._draw, []

    def recorded(*arguments: Any) -> Any:
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr(client.training.round, "_draw", recorded)
    federated = two_rounds(config, short, data)
    assert len(drawn) == 4
    patches = iter(drawn)

    def replayed(*arguments: Any) -> Any:
        # Whose patches they are, the sampler knows.
        arguments[4].drawn["unlabelled"].append(data.unlabelled[0].key)
        return next(patches)

    monkeypatch.setattr(client.training.round, "_draw", replayed)
    long = make_protocol(training={"views": "none", "local_steps": 4})
    alone = config.model_copy(update={"state": config.state / "central"})
    central = train_round(alone, long, plan(1), data, *start(long), run=RUN)
    assert equal(federated.segmenter, central.segmenter)
    assert equal(federated.confidence, central.confidence)


def test_the_first_round_forgets_an_earlier_study(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(), make_protocol()
    data = prepare_site(config, protocol)
    first = train_round(config, protocol, plan(), data, *start(protocol), run=RUN)
    again = train_round(config, protocol, plan(), data, *start(protocol), run=RUN)
    assert equal(first.segmenter, again.segmenter)


def test_a_round_measures_what_it_did(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config = make_site(labelled=3, unlabelled=2)
    protocol = make_protocol(method={"sample_attention": "literal"})
    data = prepare_site(config, protocol)
    report = train_round(config, protocol, plan(), data, *start(protocol), run=RUN).report
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
            config, protocol, plan(lr_factor=factor), data, segmenter, confidence, run=RUN
        ).segmenter
        return max(float((made[n] - segmenter[n]).abs().max()) for n in made)

    # Adam's first step is the rate itself wherever the gradient is not zero.
    assert step(1.0) == pytest.approx(1e-3, rel=0.02)
    assert step(0.1) == pytest.approx(1e-4, rel=0.02)


def test_a_label_free_site_trains_s_and_leaves_d(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, config = make_protocol(), make_site(unlabelled=2)
    data = prepare_site(config, protocol)
    segmenter, confidence = start(protocol)
    seen = []
    build = client.training.round.build_networks

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append(build(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(client.training.round, "build_networks", watched)
    result = train_round(config, protocol, plan(), data, segmenter, confidence, run=RUN)
    assert result.confidence is None
    assert not equal(result.segmenter, segmenter)
    assert equal(wire_weights(seen[0].confidence.state_dict()), confidence)
    assert all(p.grad is None for p in seen[0].confidence.parameters())
    assert "dice" not in result.report.losses
    assert result.report.losses["adversarial"].count == 2


@pytest.mark.parametrize(
    ("cases", "which"), [("unlabelled", "proximal_mu"), ("labelled", "fedprox_mu")]
)
def test_the_proximal_term_holds_a_site_back(
    make_site: MakeSite, make_protocol: MakeProtocol, cases: str, which: str
) -> None:
    """The one of its kind: sites with labels have their own."""
    config = make_site(**{cases: 2})

    def moved(mu: float) -> float:
        both = {"proximal_mu": 0.0, "fedprox_mu": 0.0, which: mu}
        protocol = make_protocol(training={**both, "local_steps": 6})
        segmenter, confidence = start(protocol)
        data = prepare_site(config, protocol)
        made = train_round(config, protocol, plan(), data, segmenter, confidence, run=RUN).segmenter
        return sum(float(((made[n] - segmenter[n]) ** 2).sum()) for n in made)

    assert moved(1e4) < 0.7 * moved(0.0)


def test_nothing_to_train_in_warm_up(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    protocol, config = make_protocol(), make_site(unlabelled=1)
    data = prepare_site(config, protocol)
    resting = plan(adversarial_ramp=0.0, region_ramp=0.0)
    with pytest.raises(NothingToTrainError, match="rest in this round"):
        train_round(config, protocol, resting, data, *start(protocol), run=RUN)
    assert not config.state.exists()


def test_a_site_without_unlabelled_scans(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    protocol, config = make_protocol(), make_site(labelled=2)
    data = prepare_site(config, protocol)
    segmenter, confidence = start(protocol)
    result = train_round(config, protocol, plan(), data, segmenter, confidence, run=RUN)
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
    with_d = train_round(config, plain, of_plan, data, segmenter, confidence, run=RUN)
    without = train_round(config, plain, of_plan, data, segmenter, None, run=RUN)
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
    warm = train_round(config, full, resting, data, *start(full), run=RUN)
    supervised = train_round(config, plain, resting, data, *start(plain), run=RUN)
    assert equal(warm.segmenter, supervised.segmenter)
    assert not equal(warm.confidence, start(full)[1])  # D learns meanwhile


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_round_moves_every_weight_of_every_network(
    make_site: MakeSite, make_protocol: MakeProtocol, architecture: str
) -> None:
    # Inner heads travel and are trained as all else is.
    protocol = make_protocol(network={"architecture": architecture}, training={"local_steps": 1})
    config = make_site()
    data = prepare_site(config, protocol)
    segmenter, confidence = start(protocol)
    made = train_round(config, protocol, plan(), data, segmenter, confidence, run=RUN).segmenter
    assert set(made) == set(segmenter)
    assert [name for name in made if torch.equal(made[name], segmenter[name])] == []


def test_a_non_finite_loss_leaves_the_stored_state(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol, config = make_protocol(), make_site()
    data = prepare_site(config, protocol)
    good = train_round(config, protocol, plan(1), data, *start(protocol), run=RUN)
    folder = config.state / "optimisers" / RUN
    stored = (folder / "round-00001.pt").read_bytes()
    broken = {name: torch.full_like(w, float("nan")) for name, w in good.segmenter.items()}
    with pytest.raises(NonFiniteLossError):
        train_round(config, protocol, plan(2), data, broken, good.confidence, run=RUN)
    assert (folder / "round-00001.pt").read_bytes() == stored
    assert [path.name for path in folder.iterdir()] == ["round-00001.pt"]


# ---- the other methods --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "term", "changes"),
    [
        ("semi-fcn", "pseudo", {"pseudo_labels": 1}),
        ("semi-embed", "embedding", {"embedding_ramp": 1.0}),
    ],
)
def test_a_whole_round_of_each_other_method(
    make_site: MakeSite, make_protocol: MakeProtocol, name: str, term: str, changes: dict[str, Any]
) -> None:
    config, protocol = make_site(), make_protocol(method={"name": name})
    data = prepare_site(config, protocol)
    segmenter, _ = start(protocol)

    def of(seed: int = 4, **announced: Any) -> RoundResult:
        study = make_protocol(method={"name": name}, seed=seed)
        schedule = plan(2, adversarial_ramp=0.0, region_ramp=0.0, **announced)
        return train_round(config, study, schedule, data, segmenter, None, run=RUN)

    resting, first, again, other = of(), of(**changes), of(**changes), of(5, **changes)
    assert set(resting.report.losses) == {"dice", "total"}
    assert set(first.report.losses) == {"dice", "total", term}
    assert first.report.losses[term].count == 2
    assert first.report.losses[term].sum > 0
    assert first.confidence is None
    assert first.segmenter.keys() == segmenter.keys()
    assert equal(first.segmenter, again.segmenter)
    assert not equal(first.segmenter, resting.segmenter)
    assert not equal(first.segmenter, other.segmenter)


def test_augmentation_moves_image_and_pseudo_label_alike(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(training={"views": "weak", "batch_size": 16})
    label = np.zeros((16, 16, 16), np.uint8)
    label[3:8, 2:9] = 1  # on one side, so that a flip of one alone would show
    case: Any = SimpleNamespace(key="one", image=label * np.float32(9), lowest=0.0)
    data = SiteData(labelled=(), unlabelled=(case,), validation=(), test=())
    rng = np.random.default_rng(1)
    schedule = plan(pseudo_labels=1)
    sampler = PatchSampler(protocol, rng, None)
    _, batch = client.training.round._draw(
        protocol, schedule, data, {"one": label}, sampler, rng, torch.device("cpu")
    )
    assert batch is not None
    assert batch.pseudo_label is not None
    flipped = 0
    for image, moved in zip(batch.image, batch.pseudo_label, strict=True):
        flipped += int(moved[0, 8:].sum() > moved[0, :8].sum())
        overlap = ((image > 4.5) == (moved == 1)).float().mean()
        assert overlap > 0.96
    assert 0 < flipped < 16


def test_a_site_without_labels_has_no_work_in_semi_embed(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(unlabelled=1), make_protocol(method={"name": "semi-embed"})
    data = prepare_site(config, protocol)
    schedule = plan(adversarial_ramp=0.0, region_ramp=0.0, embedding_ramp=1.0)
    with pytest.raises(NothingToTrainError):
        train_round(config, protocol, schedule, data, start(protocol)[0], None, run=RUN)


def test_what_patches_of_two_cases_measure_stays_at_the_site(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(labelled=3, unlabelled=3)
    config = config.model_copy(update={"min_cases_reported": 3})
    # Two steps of one patch: of at most two cases, however many there are.
    protocol = make_protocol(method={"sample_attention": "literal"})
    data = prepare_site(config, protocol)
    report = train_round(config, protocol, plan(), data, *start(protocol), run=RUN).report
    assert (report.labelled, report.unlabelled, report.steps) == (3, 3, 2)
    assert {total.count for total in report.losses.values()} == {0.0}
    assert (report.attention.sum, report.attention.count) == (0, 0)
    assert report.trusted == {}


def test_one_class_of_few_cases_withholds_the_whole_table_of_trusted_voxels(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All classes together are known: the one that is missing would be their difference."""
    config = make_site(labelled=2, unlabelled=2)
    config = config.model_copy(update={"min_cases_reported": 2})
    protocol = make_protocol(training={"local_steps": 8})
    data = prepare_site(config, protocol)
    rows = {data.unlabelled[0].key: [2, 1, 1, 9, 4, 3], data.unlabelled[1].key: [3, 1, 0, 9, 4, 3]}

    def measured(self: Any, drawn: Any) -> list[list[int]]:
        assert set(drawn) == rows.keys()
        return list(rows.values())

    monkeypatch.setattr(client.training.totals.Totals, "_voxels_by_case", measured)
    report = train_round(config, protocol, plan(), data, *start(protocol), run=RUN).report
    assert report.trusted == {}
    assert report.losses["region"].count == 8  # a mean over both cases' patches
    rows[data.unlabelled[1].key][2] = 1
    report = train_round(config, protocol, plan(), data, *start(protocol), run=RUN).report
    assert set(report.trusted) == {"background", "ball", "rod"}
