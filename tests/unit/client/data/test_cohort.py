"""The cohort of a run, and blocks of cases: no two answers can be subtracted.  Attacks first."""

import json
import logging
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from torch import nn

import client.training.evaluation
from asdnet_models.networks import build_confidence, build_segmenter
from client.app import build_client_app
from client.data.blocks import CohortFileError, plan_release, released_file
from client.data.cohort import CohortChanged, site_of_run
from client.data.dataset import BOX, prepare_site
from protocol.config.schedule import plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import pack_instruction, read_evaluation, read_facts, read_training
from protocol.wire.weights import read_weights, wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
K = 3

pytestmark = pytest.mark.usefixtures("flower_task")


class Middle(nn.Module):
    """Sees a ball of its own in the middle of every scan: a DSC between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = (image > image.amax((2, 3, 4), keepdim=True) * 0.6).float()
        return torch.cat((1 - bright, 2 * bright, torch.zeros_like(bright)), 1) + 0 * self.bias


@pytest.fixture
def crude(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.training.evaluation, "load_segmenter", lambda *_: Middle())


def ask(config: SiteConfig, protocol: StudyProtocol, kind: str, run: str = "run-1") -> Message:
    weights = wire_weights(build_segmenter(protocol).state_dict())
    confidence = wire_weights(build_confidence(protocol).state_dict())
    plan = plan_round(protocol, 1) if kind == MessageType.TRAIN else None
    content = pack_instruction(
        protocol, plan, weights, confidence if plan is not None else None, run=run
    )
    message = Message(content, 17, kind)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    context = Context(run_id=2, node_id=17, node_config={}, state=RecordDict(), run_config={})
    return build_client_app(lambda _: config)(message, context)


def add_case(config: SiteConfig, part: str, name: str, like: str = "patient-test-0") -> None:
    """One more patient: another's scan, brighter, with its own organ moved."""
    images, labels = {"test": ("imagesTs", "labelsTs"), "labelled": ("imagesTr", "labelsTr")}[part]
    for folder in (images, labels):
        source = sitk.ReadImage(str(config.data / folder / f"{like}.nii.gz"))
        array = np.roll(sitk.GetArrayFromImage(source), 1 + len(name) % 5, axis=2)
        moved = sitk.GetImageFromArray(array)
        moved.CopyInformation(source)
        sitk.WriteImage(moved, str(config.data / folder / f"{name}.nii.gz"))


def take_out(config: SiteConfig, name: str) -> None:
    for folder in ("imagesTs", "labelsTs"):
        (config.data / folder / f"{name}.nii.gz").unlink()


@pytest.fixture
def hospital(make_site: MakeSite) -> SiteConfig:
    return make_site(labelled=3, test=4, threshold=K)


# ---- within a run -------------------------------------------------------------------------------


@pytest.mark.usefixtures("crude")
def test_a_case_that_is_added_between_two_evaluations_changes_nothing(
    hospital: SiteConfig, make_protocol: MakeProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = make_protocol()
    before = read_evaluation(ask(hospital, protocol, MessageType.EVALUATE).content, protocol)
    assert before.scores["test"]["ball"].dsc.count == 4
    add_case(hospital, "test", "late")
    with caplog.at_level(logging.WARNING):
        after = read_evaluation(ask(hospital, protocol, MessageType.EVALUATE).content, protocol)
    assert (after.scores, after.cases) == (before.scores, before.cases)
    assert "for the next run: test case late" in caplog.text


@pytest.mark.usefixtures("crude")
@pytest.mark.parametrize("kind", [MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE])
def test_a_case_that_is_taken_out_or_changed_ends_the_run_here(
    hospital: SiteConfig, make_protocol: MakeProtocol, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    protocol = make_protocol()
    assert not ask(hospital, protocol, MessageType.EVALUATE).has_error()
    take_out(hospital, "patient-test-0")
    add_case(hospital, "test", "patient-test-0", like="patient-test-1")
    reply = ask(hospital, protocol, kind)
    assert reply.error.reason == "CohortChanged"
    message = caplog.text
    assert "1 of 4 test cases" in message
    assert "New or changed since: test case patient-test-0" in message
    assert "Put the files and the site's file back as they were" in message


def test_training_draws_from_the_first_answers_cases_to_the_bit(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    config = make_site(labelled=2, test=1)
    like = build_segmenter(protocol).state_dict()
    first = ask(config, protocol, MessageType.TRAIN)
    add_case(config, "labelled", "early", like="patient-labelled-0")
    again = ask(config, protocol, MessageType.TRAIN)
    weights = [read_weights(reply.content, "segmenter", like) for reply in (first, again)]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])
    assert read_training(again.content, protocol).labelled == 2
    assert read_training(ask(config, protocol, MessageType.TRAIN, "run-2").content, protocol)


def test_a_declaration_is_the_same_whenever_it_is_asked_for(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    first = read_facts(ask(hospital, protocol, MessageType.QUERY).content, protocol)
    assert (first.labelled, first.box[0].count) == (3, 3)
    add_case(hospital, "labelled", "late", like="patient-labelled-0")
    (hospital.data / "imagesUn").mkdir()
    (hospital.data / "imagesUn" / "broken.nii.gz").write_bytes(b"no scan")
    assert read_facts(ask(hospital, protocol, MessageType.QUERY).content, protocol) == first
    # The new broken file does not stop the run either.
    assert not ask(hospital, protocol, MessageType.TRAIN).has_error()


def test_data_that_are_not_tolerable_may_be_mended_within_the_run(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    """Nothing measured has left, so there is nothing to subtract from."""
    protocol = make_protocol()
    label = hospital.data / "labelsTr" / "patient-labelled-0.nii.gz"
    kept = label.read_bytes()
    label.write_bytes(b"no label")
    first = read_facts(ask(hospital, protocol, MessageType.QUERY).content, protocol)
    assert sum(first.refused.values()) == 1
    assert {(edge.sum, edge.count) for edge in first.box} == {(0.0, 0.0)}
    assert ask(hospital, protocol, MessageType.TRAIN).error.reason == "LayoutError"
    label.write_bytes(kept)
    mended = read_facts(ask(hospital, protocol, MessageType.QUERY).content, protocol)
    assert (mended.refused, mended.labelled, mended.box[0].count) == ({}, 3, 3)


def test_the_file_names_nobody_and_is_the_sites_own(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    site_of_run(hospital, make_protocol(), "run-1")
    files = [hospital.state / "cohorts" / "run-1.json", released_file(hospital)]
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
        assert "patient" not in file.read_text()
    assert len(json.loads(files[0].read_text())["cases"]["test"]) == 4


def test_a_file_that_cannot_be_read_lets_nothing_out(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    site_of_run(hospital, protocol, "run-1")
    released_file(hospital).write_text("{")
    site_of_run(hospital, protocol, "run-1")
    with pytest.raises(CohortFileError, match="restore it from your backup"):
        site_of_run(hospital, protocol, "run-2")
    assert ask(hospital, protocol, MessageType.QUERY, "run-2").error.reason == "CohortFileError"


# ---- between runs -------------------------------------------------------------------------------


@pytest.mark.usefixtures("crude")
def test_the_same_study_again_does_not_give_a_new_case_away(
    hospital: SiteConfig, make_protocol: MakeProtocol, caplog: pytest.LogCaptureFixture
) -> None:
    """Two sums, over 4 and over 5 cases, would differ by the new case's own DSC."""
    protocol = make_protocol()

    def scores(run: str) -> tuple[int, float]:
        reply = ask(hospital, protocol, MessageType.EVALUATE, run)
        total = read_evaluation(reply.content, protocol).scores["test"]["ball"].dsc
        return total.count, total.sum

    first = scores("run-1")
    add_case(hospital, "test", "new")
    with caplog.at_level(logging.WARNING):
        assert scores("run-2") == first
    assert "test scores of ball: 1 new cases wait until there are 3" in caplog.text
    add_case(hospital, "test", "newer", like="patient-test-1")
    assert scores("run-3") == first
    add_case(hospital, "test", "new-est", like="patient-test-2")
    assert scores("run-4")[0] == 7


@pytest.mark.usefixtures("crude")
def test_a_case_that_was_taken_out_is_not_given_away_by_the_next_run(
    hospital: SiteConfig,
    make_protocol: MakeProtocol,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    protocol = make_protocol()
    site_of_run(hospital, protocol, "run-1")
    kept = tmp_path / "kept"
    for folder in ("imagesTs", "labelsTs"):
        (kept / folder).mkdir(parents=True)
        shutil.copy(hospital.data / folder / "patient-test-0.nii.gz", kept / folder)
    take_out(hospital, "patient-test-0")
    with caplog.at_level(logging.WARNING):
        reply = ask(hospital, protocol, MessageType.EVALUATE, "run-2")
    report = read_evaluation(reply.content, protocol)
    assert report.cases["test"] == report.scores["test"]["ball"].dsc.count == 0
    assert "test scores of ball: 3 cases stay out" in caplog.text
    shutil.copytree(kept, hospital.data, dirs_exist_ok=True)
    back = read_evaluation(ask(hospital, protocol, MessageType.EVALUATE, "run-3").content, protocol)
    assert back.scores["test"]["ball"].dsc.count == 4


def test_a_new_labelled_cases_organ_box_is_not_given_away(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    first = read_facts(ask(hospital, protocol, MessageType.QUERY).content, protocol)
    add_case(hospital, "labelled", "new", like="patient-labelled-0")
    second = read_facts(ask(hospital, protocol, MessageType.QUERY, "run-2").content, protocol)
    assert (second.labelled, second.box) == (4, first.box)


@pytest.mark.parametrize(
    ("organs", "spacing", "organ"),
    [
        ({"ball": 2, "rod": 5}, (2.0, 2.0, 2.5), "ball"),
        ({"sphere": 2, "rod": 5}, (2.0, 2.0, 2.0), "sphere"),
    ],
)
def test_another_studys_grid_or_names_do_not_make_other_cases(
    hospital: SiteConfig,
    make_protocol: MakeProtocol,
    organs: dict[str, int],
    spacing: tuple[float, float, float],
    organ: str,
) -> None:
    site_of_run(hospital, make_protocol(), "run-1")
    add_case(hospital, "test", "new")
    other = make_protocol(organs=organs, spacing_mm=spacing, name="another")
    data, _ = site_of_run(hospital, other, "run-2")
    assert [len(block) for block in data.blocks(organ, data.test)] == [4]
    assert len(data.test) == 5


def test_a_label_that_was_only_converted_is_the_same_case(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    site_of_run(hospital, make_protocol(), "run-1")
    label = hospital.data / "labelsTs" / "patient-test-0.nii.gz"
    image = sitk.ReadImage(str(label))
    label.unlink()
    sitk.WriteImage(image, str(label.with_name("patient-test-0.mha")))
    data, _ = site_of_run(hospital, make_protocol(), "run-2")
    assert [len(block) for block in data.blocks("ball", data.test)] == [4]
    redrawn = sitk.GetArrayFromImage(image)
    redrawn[redrawn == 2] = 0
    other = sitk.GetImageFromArray(redrawn)
    other.CopyInformation(image)
    sitk.WriteImage(other, str(label.with_name("patient-test-0.mha")))
    data, _ = site_of_run(hospital, make_protocol(), "run-3")
    assert data.blocks("ball", data.test) == []
    assert [len(block) for block in data.blocks("rod", data.test)] == [4]


def test_organs_that_are_absent_in_one_case_do_not_hold_each_other_back(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    label = hospital.data / "labelsTs" / "patient-test-0.nii.gz"
    image = sitk.ReadImage(str(label))
    sitk.WriteImage(image * 0, str(label))
    data, _ = site_of_run(hospital, make_protocol(), "run-1")
    for organ in ("ball", "rod"):
        assert [len(block) for block in data.blocks(organ, data.test)] == [4]


def test_nothing_of_it_moves_a_number_where_one_case_may_be_reported(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    """As in simulations: the same cases, in the same order."""
    config, protocol = make_site(), make_protocol()
    plain, frozen = prepare_site(config, protocol), site_of_run(config, protocol, "run-1")[0]
    assert replace(frozen, released=None) == plain
    for part in ("validation", "test"):
        (block,) = frozen.blocks("rod", getattr(frozen, part))
        assert tuple(block) == getattr(plain, part)
    assert frozen.blocks(BOX, frozen.labelled) == [list(plain.labelled)]


def test_planning_writes_nothing(hospital: SiteConfig) -> None:
    assert plan_release(hospital, ()).released == {}
    assert not released_file(hospital).exists()


def test_a_changed_cohort_says_why_a_case_is_not_used(
    hospital: SiteConfig, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    site_of_run(hospital, protocol, "run-1")
    (hospital.data / "labelsTs" / "patient-test-2.nii.gz").unlink()
    with pytest.raises(CohortChanged, match="Not used now: case patient-test-2: imagesTs holds"):
        site_of_run(hospital, protocol, "run-1")


def test_old_runs_are_cleared_away_and_the_blocks_never(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config, protocol = make_site(labelled=1), make_protocol()
    for number in range(70):
        site_of_run(config, protocol, f"run-{number}")
    folder = config.state / "cohorts"
    assert len([path for path in folder.glob("run-*.json")]) == 64
    assert (folder / "run-69.json").exists() and released_file(config).exists()


# ---- unlabelled scans that stand in for scores ---------------------------------------------------


def expected_cases(config: SiteConfig, protocol: StudyProtocol, run: str) -> set[str]:
    """Names of the scans whose expected DSC leave in a run."""
    data, _ = site_of_run(config, protocol, run)
    return {case.name for block in data.standing_in() for case in block}


def test_a_site_without_scored_cases_says_what_is_expected_of_eight_scans(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    config = make_site(unlabelled=10, threshold=K)
    first = {f"patient-unlabelled-{n}" for n in range(8)}
    assert expected_cases(config, protocol, "run-1") == first
    # A scan that comes before all by name takes nobody's place: the difference were two patients'.
    shutil.copy(config.data / "imagesUn" / "patient-unlabelled-9.nii.gz", config.data / "a.nii.gz")
    (config.data / "imagesUn" / "patient-unlabelled-9.nii.gz").unlink()
    shutil.move(config.data / "a.nii.gz", config.data / "imagesUn" / "a.nii.gz")
    assert expected_cases(config, protocol, "run-2") == first
    # One of them is gone: what is left of the block stays, and so does the one that came instead.
    (config.data / "imagesUn" / "patient-unlabelled-3.nii.gz").unlink()
    assert expected_cases(config, protocol, "run-3") == set()


def test_more_cases_to_be_reported_are_more_scans(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(unlabelled=10, threshold=9)
    assert len(expected_cases(config, make_protocol(), "run-1")) == 9
    few = make_site("B", unlabelled=2, threshold=K)
    assert expected_cases(few, make_protocol(), "run-1") == set()


def test_a_site_that_scores_itself_is_not_estimated(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(unlabelled=4, test=1, threshold=1)
    assert expected_cases(config, make_protocol(), "run-1") == set()


@pytest.mark.usefixtures("crude")
def test_what_is_expected_leaves_through_the_filter(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    free = read_evaluation(
        ask(make_site(unlabelled=4, threshold=K), protocol, MessageType.EVALUATE).content, protocol
    )
    assert free.cases == {"validation": 0, "test": 0}
    ball = free.expected["softmax"]["ball"]
    assert (ball.unlabelled.count, ball.validation.count) == (4, 0)
    assert 0 < ball.unlabelled.sum < 4
    assert free.expected["confidence"]["ball"].unlabelled.count == 0  # no D was sent
    own = make_site("B", labelled=1, validation=3, unlabelled=3, threshold=K)
    scored = read_evaluation(ask(own, protocol, MessageType.EVALUATE).content, protocol)
    ball = scored.expected["softmax"]["ball"]
    assert (ball.unlabelled.count, ball.validation.count) == (0, 3)
    assert 0 < ball.products <= ball.validation.sum
