"""What a teacher or a second network keeps at a site over rounds, and the views that it gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asdnet_models.catalogue import METHODS
from asdnet_models.networks import build_segmenter
from client.data.dataset import SiteData, prepare_site
from client.training.augmentation import RandomViews
from client.training.device import build_networks
from client.training.optimiser_state import OptimiserStore
from client.training.rehearsal import made_step
from client.training.round import NothingToTrainError, RoundResult, train_round
from protocol.config.schedule import RoundPlan, plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.wire.weights import Weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
RUN = "tiny-1"
TAUGHT = ("region-teacher", "weak-to-strong", "copy-paste", "mean-teacher", "ua-mt", "cross-pseudo")


def plan(number: int) -> RoundPlan:
    return RoundPlan(round=number, lr_factor=1, adversarial_ramp=0, region_ramp=1)


def study(make_protocol: MakeProtocol, name: str, **changes: Any) -> StudyProtocol:
    return make_protocol(method={"name": name, "gate": "none", **changes})


def start(protocol: StudyProtocol) -> Weights:
    return wire_weights(build_segmenter(protocol).state_dict())


def trained(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData, rounds: int
) -> list[RoundResult]:
    """Rounds of one site, each from the last one's weights."""
    results: list[RoundResult] = []
    weights = start(protocol)
    for number in range(1, rounds + 1):
        results.append(train_round(config, protocol, plan(number), data, weights, None, run=RUN))
        weights = results[-1].segmenter
    return results


def equal(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("labelled", [2, 0])
@pytest.mark.parametrize("name", TAUGHT)
def test_a_round_of_each_kind_of_site_repeats(
    name: str, labelled: int, make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    """With labels and without any, bit by bit."""
    protocol = study(make_protocol, name)
    config = make_site(labelled=labelled, unlabelled=2)
    data = prepare_site(config, protocol)
    first, again = (trained(config, protocol, data, 2)[-1] for _ in range(2))
    assert equal(first.segmenter, again.segmenter)
    assert first.report.losses["teacher"].count == protocol.training.local_steps
    assert 0 <= (first.report.losses["agreement"].mean or 0) <= 1


def test_the_teacher_goes_on_from_the_average_of_the_global_weights(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the newest alone: in round 3 it begins with the mean of those of rounds 1 and 2."""
    protocol = study(make_protocol, "mean-teacher", teacher_decay=0.5)
    config = make_site(labelled=2, unlabelled=2)
    data = prepare_site(config, protocol)
    begun: list[dict[str, torch.Tensor]] = []

    def watched(networks: Any, *rest: Any, **options: Any) -> Any:
        begun.append({name: w.clone() for name, w in networks.teacher.state_dict().items()})
        return made(networks, *rest, **options)

    import client.training.round

    original = client.training.round.method_named("mean-teacher")

    def made(*arguments: Any, **options: Any) -> Any:
        return original(*arguments, **options)

    monkeypatch.setattr(client.training.round, "method_named", lambda name: watched)
    first, second, _ = trained(config, protocol, data, 3)
    decay = 0.5**protocol.training.local_steps
    for name, weight in begun[0].items():
        assert torch.equal(weight, start(protocol)[name])
        assert torch.equal(begun[1][name], first.segmenter[name])
        mean = (decay * first.segmenter[name] + second.segmenter[name]) / (decay + 1)
        torch.testing.assert_close(begun[2][name], mean)


def test_a_round_trained_again_has_the_same_teacher(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    """The centre died in round 3: the same weights come again, and give the same bits."""
    protocol = study(make_protocol, "copy-paste")
    config = make_site(labelled=2, unlabelled=2)
    data = prepare_site(config, protocol)
    *_, second, third = trained(config, protocol, data, 3)
    again = train_round(config, protocol, plan(3), data, second.segmenter, None, run=RUN)
    assert equal(again.segmenter, third.segmenter)


def test_the_second_network_stays_at_its_site(
    make_site: MakeSite, make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    """It begins elsewhere than S, and goes on from where it was, whatever the centre sends."""
    protocol = study(make_protocol, "cross-pseudo")
    networks = build_networks(protocol, torch.device("cpu"), trains_confidence=False)
    assert networks.teacher is not None
    assert not equal(wire_weights(networks.teacher.state_dict()), start(protocol))
    with torch.no_grad():
        for parameter in networks.teacher.parameters():
            parameter.add_(1.0)
    store = OptimiserStore(tmp_path, RUN)
    store.save(networks, 1)
    later = build_networks(protocol, torch.device("cpu"), trains_confidence=False)
    store.load(later, 2)
    assert later.teacher is not None
    assert equal(later.teacher.state_dict(), networks.teacher.state_dict())
    config = make_site(labelled=2, unlabelled=2)
    report = trained(config, protocol, prepare_site(config, protocol), 2)[-1]
    # Only S leaves.
    assert report.networks.keys() == {"segmenter"}


def assert_rests_without_labels(
    make_site: MakeSite, protocol: StudyProtocol, resting: RoundPlan
) -> None:
    config = make_site(labelled=0, unlabelled=2)
    data = prepare_site(config, protocol)
    with pytest.raises(NothingToTrainError):
        train_round(config, protocol, resting, data, start(protocol), None, run=RUN)


def test_a_label_free_site_rests_in_the_warm_up(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = merged(
        study(make_protocol, "copy-paste"), {"training": {"ramp": {"region_start": 0.5}}}
    )
    warm_up = plan_round(protocol, 1)
    assert warm_up.region_ramp == warm_up.adversarial_ramp == 0
    assert_rests_without_labels(make_site, protocol, warm_up)


def test_a_round_in_which_nothing_is_believed_is_answered_with_the_weights_that_came(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol(
        method={"name": "region-teacher", "gate": "softmax", "gamma": 0.999999}
    )
    config = make_site(labelled=0, unlabelled=2)
    (result,) = trained(config, protocol, prepare_site(config, protocol), 1)
    assert equal(result.segmenter, start(protocol))
    assert result.report.steps == protocol.training.local_steps
    assert result.report.losses["total"].mean == result.report.losses["teacher"].mean == 0.0


def test_without_labels_a_second_network_would_teach_noise_and_the_site_rests(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = study(make_protocol, "cross-pseudo")
    last = plan_round(protocol, protocol.training.rounds)
    assert last.learns_from_unlabelled and not last.works_without_labels
    assert_rests_without_labels(make_site, protocol, last)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method_is_rehearsed(
    make_site: MakeSite, make_protocol: MakeProtocol, name: str
) -> None:
    protocol = study(make_protocol, name)
    step = made_step(make_site(labelled=1, unlabelled=1), protocol, torch.device("cpu"))
    assert step() is not None


def test_the_last_round_has_a_teachers_whole_weight_and_no_adversary(
    make_protocol: MakeProtocol,
) -> None:
    protocol = study(make_protocol, "region-teacher", gate="mask")
    last = plan_round(protocol, protocol.training.rounds)
    assert last.region_ramp > 0 == last.adversarial_ramp
    off = study(make_protocol, "region-teacher", lambda_region=0.0)
    assert plan_round(off, protocol.training.rounds).region_ramp == 0
    assert not off.method.trains_confidence


@pytest.mark.parametrize("views", ["none", "weak", "strong"])
def test_weak_and_strong_views_are_of_the_same_voxels(
    views: str, make_protocol: MakeProtocol
) -> None:
    """A bright box is where it was in both: intensities change, and nothing moves."""
    protocol = make_protocol(training={"rounds": 2, "local_steps": 1, "views": views})
    rng = np.random.default_rng(4)
    random = RandomViews(protocol, 4, rng)
    edges = protocol.patch_voxels if random.edges is None else tuple(random.edges.tolist())
    image = torch.zeros(4, 1, *edges)
    image[:, :, edges[0] // 4 : edges[0] // 2, edges[1] // 3 :, : edges[2] // 2] = 1.0
    strong, plain = random.with_plain(image)
    assert strong.shape == plain.shape == (4, 1, *protocol.patch_voxels)
    assert torch.equal(strong, plain) == (views == "none")
    for one, other in zip(strong.flatten(1), plain.flatten(1), strict=True):
        inside, outside = one[other > 0.5], one[other <= 0.5]
        assert inside.mean() - outside.mean() > outside.std()
