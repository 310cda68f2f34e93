"""A site's own labels of its unlabelled scans: when they are made, by which weights, and where."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import client.training.pseudo_labels
from asdnet_models.networks import build_segmenter
from client.data.dataset import (
    SiteData,
    prepare_site,
)
from client.training.evaluation import load_segmenter
from client.training.pseudo_labels import label_case, pseudo_labels_of
from client.training.round import NothingToTrainError, RoundResult, train_round
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import pack_training
from protocol.wire.metrics import allowed_metrics
from protocol.wire.weights import Weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]

RUN = "study-1"


@pytest.fixture
def protocol(make_protocol: MakeProtocol) -> StudyProtocol:
    return make_protocol(method={"name": "semi-fcn"})


@pytest.fixture
def config(make_site: MakeSite) -> SiteConfig:
    return make_site(labelled=2, unlabelled=2)


@pytest.fixture
def data(config: SiteConfig, protocol: StudyProtocol) -> SiteData:
    return prepare_site(config, protocol)


def plan(number: int, labelling: int) -> RoundPlan:
    return RoundPlan(
        round=number, lr_factor=1, adversarial_ramp=0, region_ramp=0, pseudo_labels=labelling
    )


def weights(protocol: StudyProtocol, seed: int) -> Weights:
    segmenter = build_segmenter(protocol.model_copy(update={"seed": seed}))
    return wire_weights(segmenter.state_dict())


def train(
    config: SiteConfig,
    protocol: StudyProtocol,
    data: SiteData,
    number: int,
    labelling: int,
    seed: int = 1,
    run: str = RUN,
) -> RoundResult:
    start = weights(protocol, seed)
    return train_round(config, protocol, plan(number, labelling), data, start, None, run=run)


def stored(config: SiteConfig, labelling: int, run: str = RUN) -> dict[str, NDArray[np.uint8]]:
    folder = config.state / "pseudo-labels" / run / str(labelling)
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def drawn_by(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData, seed: int
) -> dict[str, NDArray[np.uint8]]:
    segmenter = load_segmenter(config, protocol, weights(protocol, seed))
    return {case.key: label_case(segmenter, protocol, case) for case in data.unlabelled}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


# ---- when, and by which weights -----------------------------------------------------------------


def test_before_the_first_labelling_there_is_none(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData
) -> None:
    report = train(config, protocol, data, 1, 0).report
    assert set(report.losses) == {"dice", "total"}
    assert not (config.state / "pseudo-labels").exists()


def test_the_global_weights_of_a_labellings_first_round_draw_it(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData
) -> None:
    report = train(config, protocol, data, 2, 1, seed=1).report
    first = drawn_by(config, protocol, data, 1)
    assert same(stored(config, 1), first)
    for case in data.unlabelled:
        label = stored(config, 1)[case.key]
        assert (label.shape, label.dtype) == (case.image.shape, np.uint8)
    assert report.losses["pseudo"].count == 2
    train(config, protocol, data, 3, 1, seed=2)  # other weights, the same labelling
    assert same(stored(config, 1), first)
    train(config, protocol, data, 4, 2, seed=2)
    second = drawn_by(config, protocol, data, 2)
    assert same(stored(config, 2), second)
    assert not same(first, second)


def test_older_labellings_are_cleared_away(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData
) -> None:
    for number, labelling in ((2, 1), (3, 2)):
        train(config, protocol, data, number, labelling)
        assert os.listdir(config.state / "pseudo-labels" / RUN) == [str(labelling)]


def test_labels_of_an_earlier_study_of_the_same_name_are_not_taken_up(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData
) -> None:
    train(config, protocol, data, 2, 1, seed=1)
    train(config, protocol, data, 1, 1, seed=2)  # labels from the first round on
    assert same(stored(config, 1), drawn_by(config, protocol, data, 2))
    train(config, protocol, data, 1, 0, seed=1)
    assert stored(config, 1) == {}


def test_runs_do_not_share_labels_and_old_ones_are_cleared_away(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData
) -> None:
    everything = config.state / "pseudo-labels"
    for number in range(1, 6):
        train(config, protocol, data, 2, 1, seed=number, run=f"study-{number}")
        os.utime(everything / f"study-{number}", (1000 + number, 1000 + number))
    assert sorted(os.listdir(everything)) == ["study-2", "study-3", "study-4", "study-5"]
    assert not same(stored(config, 1, "study-2"), stored(config, 1, "study-3"))


# ---- crashes ------------------------------------------------------------------------------------


def test_a_round_trained_again_gives_the_same_bits_and_draws_nothing(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(config, protocol, data, 2, 1)
    labels = stored(config, 1)

    def drawn_again(*_: Any) -> None:
        raise AssertionError("what is there must be used")

    monkeypatch.setattr(client.training.pseudo_labels, "label_case", drawn_again)
    again = train(config, protocol, data, 2, 1)
    assert all(torch.equal(first.segmenter[n], again.segmenter[n]) for n in first.segmenter)
    assert same(stored(config, 1), labels)


def test_what_is_stored_is_what_s_learns_from(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData
) -> None:
    first = train(config, protocol, data, 2, 1)
    folder = config.state / "pseudo-labels" / RUN / "1"
    for key, label in stored(config, 1).items():
        np.save(folder / f"{key}.npy", 2 - label)
    other = train(config, protocol, data, 2, 1)
    assert first.report.losses["dice"].count == other.report.losses["dice"].count
    assert any(not torch.equal(first.segmenter[n], other.segmenter[n]) for n in first.segmenter)


def test_a_process_that_died_while_it_labelled_costs_nothing(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(config, protocol, data, 2, 1)
    labels = stored(config, 1)
    last = config.state / "pseudo-labels" / RUN / "1" / f"{data.unlabelled[1].key}.npy"
    last.unlink()

    def die(draft: Path, label: Any) -> None:
        draft.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(client.training.pseudo_labels.np, "save", die)
        with pytest.raises(KeyboardInterrupt):
            train(config, protocol, data, 2, 1)
    assert not last.exists()
    again = train(config, protocol, data, 2, 1)
    assert same(stored(config, 1), labels)
    assert all(torch.equal(whole.segmenter[n], again.segmenter[n]) for n in whole.segmenter)


def test_labelling_leaves_the_network_as_it_was(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData, tmp_path: Path
) -> None:
    segmenter = load_segmenter(config, protocol, weights(protocol, 1)).train()
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    found = pseudo_labels_of(tmp_path, RUN, plan(2, 1), segmenter, protocol, data.unlabelled)
    assert found is not None
    assert found.keys() == {case.key for case in data.unlabelled}
    assert segmenter.training
    assert all(torch.equal(before[n], tensor) for n, tensor in segmenter.state_dict().items())


# ---- a site without labels, and the door --------------------------------------------------------


def test_a_site_without_labels_rests_until_it_has_pseudo_labels(
    make_site: MakeSite, protocol: StudyProtocol
) -> None:
    free = make_site("F", unlabelled=2)
    data = prepare_site(free, protocol)
    with pytest.raises(NothingToTrainError):
        train(free, protocol, data, 1, 0)
    result = train(free, protocol, data, 2, 1)
    assert set(result.report.losses) == {"pseudo", "total"}
    start = weights(protocol, 1)
    assert any(not torch.equal(start[name], result.segmenter[name]) for name in start)


def test_nothing_of_the_labels_is_in_the_reply(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData
) -> None:
    result = train(config, protocol, data, 2, 1)
    content = pack_training(
        config.site, result.report, protocol, result.segmenter, result.confidence
    )
    assert set(content) == {"site", "metrics", "segmenter"}
    assert set(content["metrics"]) == allowed_metrics("train", protocol)
    assert result.segmenter.keys() == weights(protocol, 1).keys()
    sent = b"".join(array.data for array in content["segmenter"].values())
    for key, label in stored(config, 1).items():
        assert label.any()  # a run of background could be in anything
        row = max(label.reshape(-1, label.shape[-1]), key=np.count_nonzero)
        assert row.tobytes() not in sent
        assert key.encode() not in sent
