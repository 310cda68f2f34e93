"""Adam's moments between rounds: of this run, of the round before, and the same bits again."""

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from asdnet_models.methods.common import Networks
from asdnet_models.networks import build_confidence, build_segmenter
from client.data.dataset import (
    SiteData,
    prepare_site,
)
from client.training.device import build_networks
from client.training.optimiser_state import OptimiserStore
from client.training.round import RoundResult, train_round
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.weights import Weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]

CPU = torch.device("cpu")
RUN = "study-1"


@pytest.fixture
def protocol(make_protocol: MakeProtocol) -> StudyProtocol:
    return make_protocol()


@pytest.fixture
def config(make_site: MakeSite) -> SiteConfig:
    return make_site()


def train(
    config: SiteConfig,
    protocol: StudyProtocol,
    number: int,
    before: RoundResult | None = None,
    run: str = RUN,
) -> RoundResult:
    plan = RoundPlan(round=number, lr_factor=1.0, adversarial_ramp=1.0, region_ramp=1.0)
    data: SiteData = prepare_site(config, protocol)
    segmenter: Weights = wire_weights(build_segmenter(protocol).state_dict())
    confidence: Weights | None = wire_weights(build_confidence(protocol).state_dict())
    if before:
        segmenter, confidence = before.segmenter, before.confidence
    return train_round(config, protocol, plan, data, segmenter, confidence, run=run)


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return bool(a == b)


def of_round(config: SiteConfig, number: int, run: str = RUN) -> Any:
    path = config.state / "optimisers" / run / f"round-{number:05d}.pt"
    return torch.load(path, weights_only=True)


def kept(config: SiteConfig, run: str = RUN) -> list[str]:
    return sorted(os.listdir(config.state / "optimisers" / run))


def networks_with_moments(protocol: StudyProtocol, value: float) -> Networks:
    """Every first moment is `value`, as after one step of Adam with gradients of 10 `value`."""
    networks = build_networks(protocol, CPU, trains_confidence=True)
    for optimiser in (networks.segmenter_optimiser, networks.confidence_optimiser):
        assert optimiser is not None
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 10 * value)
            group["weight_decay"] = 0.0
        optimiser.step()
    return networks


def moments(optimiser: torch.optim.Optimizer | None) -> set[float]:
    """The distinct first moments; none of a fresh optimiser."""
    assert optimiser is not None
    return {
        round(value, 4)
        for state in optimiser.state_dict()["state"].values()
        for value in state["exp_avg"].flatten().tolist()
    }


def loaded(store: OptimiserStore, protocol: StudyProtocol, number: int) -> set[float]:
    networks = build_networks(protocol, CPU, trains_confidence=True)
    store.load(networks, number)
    found = moments(networks.segmenter_optimiser)
    assert moments(networks.confidence_optimiser) == found
    return found


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_round_trained_again_gives_the_same_bits(
    config: SiteConfig, protocol: StudyProtocol, number: int
) -> None:
    """The process died after it saved, or the centre before it kept the reply."""
    before = None
    for earlier in range(1, number):
        before = train(config, protocol, earlier, before)
    first = train(config, protocol, number, before)
    states = of_round(config, number)
    again = train(config, protocol, number, before)
    assert same_bits(first.segmenter, again.segmenter)
    assert same_bits(first.confidence, again.confidence)
    assert same_bits(states, of_round(config, number))
    after, after_again = (train(config, protocol, number + 1, result) for result in (first, again))
    assert same_bits(after.segmenter, after_again.segmenter)


def test_a_process_that_died_while_it_saved_costs_nothing(
    config: SiteConfig, protocol: StudyProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(config, protocol, 1)
    expected = train(config, protocol, 2, first)
    (config.state / "optimisers" / RUN / "round-00002.pt").unlink()

    def die(states: Any, file: BinaryIO) -> None:
        file.write(b"half a file")
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(torch, "save", die)
        with pytest.raises(KeyboardInterrupt):
            train(config, protocol, 2, first)
    assert kept(config) == ["round-00001.pt"]
    assert same_bits(train(config, protocol, 2, first).segmenter, expected.segmenter)
    assert kept(config) == ["round-00001.pt", "round-00002.pt"]


def test_another_runs_states_are_never_taken_up(
    config: SiteConfig, protocol: StudyProtocol
) -> None:
    first = train(config, protocol, 1, run="study-0")
    with_moments = train(config, protocol, 2, first, run="study-0")
    other_run = train(config, protocol, 2, first)
    elsewhere = config.model_copy(update={"state": config.state / "elsewhere"})
    fresh = train(elsewhere, protocol, 2, first)
    assert same_bits(other_run.segmenter, fresh.segmenter)
    assert same_bits(other_run.confidence, fresh.confidence)
    assert not same_bits(other_run.segmenter, with_moments.segmenter)


def test_a_run_of_another_network_is_no_hindrance(
    config: SiteConfig, protocol: StudyProtocol, make_protocol: MakeProtocol
) -> None:
    train(config, make_protocol(network={"width": 4}), 1, run="study-0")
    train(config, protocol, 2)
    assert kept(config) == ["round-00002.pt"]


def test_a_round_takes_up_the_newest_before_it(tmp_path: Path, protocol: StudyProtocol) -> None:
    store = OptimiserStore(tmp_path, RUN)
    store.save(networks_with_moments(protocol, 0.5), 4)
    store.save(networks_with_moments(protocol, 0.7), 6)
    assert loaded(store, protocol, 4) == set()
    assert loaded(store, protocol, 5) == {0.5}
    assert loaded(store, protocol, 6) == {0.5}
    assert loaded(store, protocol, 7) == {0.7}
    assert loaded(store, protocol, 20) == {0.7}
    assert loaded(OptimiserStore(tmp_path, "study-2"), protocol, 7) == set()


def test_a_late_comer_starts_with_fresh_moments(tmp_path: Path, protocol: StudyProtocol) -> None:
    assert loaded(OptimiserStore(tmp_path, RUN), protocol, 37) == set()
    assert not (tmp_path / "optimisers").exists()


def test_the_last_two_rounds_are_kept(tmp_path: Path, protocol: StudyProtocol) -> None:
    store = OptimiserStore(tmp_path, RUN)
    networks = networks_with_moments(protocol, 0.5)
    folder = tmp_path / "optimisers" / RUN
    for number in (1, 2, 3):
        store.save(networks, number)
    assert sorted(os.listdir(folder)) == ["round-00002.pt", "round-00003.pt"]
    store.save(networks, 3)  # once more: round 2, which it starts from, stays
    assert sorted(os.listdir(folder)) == ["round-00002.pt", "round-00003.pt"]
    store.save(networks, 10)
    assert sorted(os.listdir(folder)) == ["round-00003.pt", "round-00010.pt"]


def test_rounds_are_sorted_by_number(tmp_path: Path, protocol: StudyProtocol) -> None:
    """By name, round-100000 would stand before round-99999."""
    store = OptimiserStore(tmp_path, RUN)
    for number, value in ((99998, 0.3), (99999, 0.5), (100000, 0.7)):
        store.save(networks_with_moments(protocol, value), number)
    folder = tmp_path / "optimisers" / RUN
    assert sorted(os.listdir(folder)) == ["round-100000.pt", "round-99999.pt"]
    assert loaded(store, protocol, 100000) == {0.5}
    assert loaded(store, protocol, 100001) == {0.7}


def test_states_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, protocol: StudyProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "optimisers" / RUN
    synced: list[tuple[int, int, list[str]]] = []
    folders: list[list[str]] = []

    def fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            folders.append(os.listdir(folder))
        else:
            synced.append((status.st_ino, status.st_size, os.listdir(folder)))

    monkeypatch.setattr(os, "fsync", fsync)
    OptimiserStore(tmp_path, RUN).save(networks_with_moments(protocol, 0.5), 1)
    kept = (folder / "round-00001.pt").stat()
    # The whole of the file, under its passing name.
    ((inode, size, (draft,)),) = synced
    assert (inode, size) == (kept.st_ino, kept.st_size)
    assert draft.startswith(".draft-")
    assert folders == [["round-00001.pt"]]


@pytest.mark.parametrize("stray", [".draft-0.pt", "notes.txt", "round-00002.pt.bak", "x-00002.pt"])
def test_stray_files_are_passed_over(tmp_path: Path, protocol: StudyProtocol, stray: str) -> None:
    store = OptimiserStore(tmp_path, RUN)
    store.save(networks_with_moments(protocol, 0.5), 1)
    for folder in (tmp_path / "optimisers", tmp_path / "optimisers" / RUN):
        (folder / stray).write_bytes(b"no states")
    assert loaded(store, protocol, 3) == {0.5}
    for number in (2, 3):
        store.save(networks_with_moments(protocol, 0.7), number)
    assert loaded(store, protocol, 4) == {0.7}
    here = set(os.listdir(tmp_path / "optimisers" / RUN))
    assert here - {stray} == {"round-00002.pt", "round-00003.pt"}
    assert (tmp_path / "optimisers" / stray).read_bytes() == b"no states"


@pytest.mark.parametrize("stray", ["round-x.pt", "round-.pt", "round-00001 (copy).pt"])
def test_files_that_name_no_round_are_passed_over(
    tmp_path: Path, protocol: StudyProtocol, stray: str
) -> None:
    store = OptimiserStore(tmp_path, RUN)
    store.save(networks_with_moments(protocol, 0.5), 1)
    (tmp_path / "optimisers" / RUN / stray).write_bytes(b"no states")
    assert loaded(store, protocol, 2) == {0.5}
    store.save(networks_with_moments(protocol, 0.7), 2)
    assert loaded(store, protocol, 3) == {0.7}


def test_states_of_later_rounds_only_are_reported(
    tmp_path: Path, protocol: StudyProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    store = OptimiserStore(tmp_path, RUN)
    with caplog.at_level(logging.WARNING, logger="client.training.optimiser_state"):
        assert loaded(store, protocol, 1) == set()
        store.save(networks_with_moments(protocol, 0.5), 4)
        assert loaded(store, protocol, 5) == {0.5}
        assert caplog.messages == []  # a first round, and a usual one
        assert loaded(store, protocol, 4) == set()
        assert loaded(store, protocol, 2) == set()
    assert caplog.messages == [
        f"round {number}: states of later rounds only; moments are fresh" for number in (4, 2)
    ]


def test_later_rounds_of_another_start_are_not_cleared(
    tmp_path: Path, protocol: StudyProtocol
) -> None:
    """The centre went back to round 2: what it trains now is kept, and found again."""
    store = OptimiserStore(tmp_path, RUN)
    for number in (6, 7):
        store.save(networks_with_moments(protocol, 0.5), number)
    for number in (2, 3, 4):
        store.save(networks_with_moments(protocol, 0.7), number)
        assert loaded(store, protocol, number + 1) == {0.7}
    assert sorted(os.listdir(tmp_path / "optimisers" / RUN)) == [
        f"round-0000{number}.pt" for number in (3, 4, 6, 7)
    ]


def test_a_few_runs_are_kept(tmp_path: Path, protocol: StudyProtocol) -> None:
    networks = networks_with_moments(protocol, 0.5)
    for number in range(6):
        OptimiserStore(tmp_path, f"study-{number}").save(networks, 1)
        os.utime(tmp_path / "optimisers" / f"study-{number}", (1000 + number, 1000 + number))
    assert sorted(os.listdir(tmp_path / "optimisers")) == [f"study-{n}" for n in (2, 3, 4, 5)]
    OptimiserStore(tmp_path, "study-2").save(networks, 2)  # the oldest is in use again
    OptimiserStore(tmp_path, "study-6").save(networks, 1)
    assert sorted(os.listdir(tmp_path / "optimisers")) == [f"study-{n}" for n in (2, 4, 5, 6)]


def test_the_states_of_d_are_kept_where_d_is_trained(
    tmp_path: Path, protocol: StudyProtocol
) -> None:
    store = OptimiserStore(tmp_path, RUN)
    asked = build_networks(protocol, CPU, trains_confidence=False)
    assert asked.confidence_optimiser is None
    store.save(asked, 1)
    networks = build_networks(protocol, CPU, trains_confidence=True)
    store.load(networks, 2)  # the site got labels in between
    assert moments(networks.confidence_optimiser) == set()
