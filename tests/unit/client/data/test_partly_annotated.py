"""A site that has drawn the ball and no rod: what it trains on, scores, and declares."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from flwr.app import Context, Message, MessageType, RecordDict
from torch import nn

import client.training.evaluation
from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.sums import OrganSums, ScoreSum
from client.app import build_client_app
from client.data.cache import CachedCase
from client.data.dataset import (
    PatchSampler,
    SiteData,
    prepare_site,
)
from client.data.declaration import (
    annotated_boxes,
    count_annotated,
)
from client.data.folder.layout import LayoutError
from client.training.evaluation import evaluate_site
from client.training.round import train_round
from protocol.config.schedule import plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import pack_instruction, read_facts
from protocol.wire.reports import EvaluationReport
from protocol.wire.weights import wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]


NUMBERS = {"ball": 2, "rod": 5, "foot": 9}  # a foot is an organ of another study


def drawn_but(config: SiteConfig, *undrawn: str) -> SiteConfig:
    """The site whose files hold every organ all the same; what it says of them counts."""
    facts = {
        "labels": {organ: (n,) for organ, n in NUMBERS.items() if organ not in undrawn},
        "ignored_labels": tuple(NUMBERS[organ] for organ in undrawn),
        "not_annotated": undrawn,
    }
    return SiteConfig.model_validate(config.model_dump() | facts)


@pytest.fixture
def make_partly(make_site: MakeSite) -> MakeSite:
    def make(*undrawn: str, **parts: int) -> SiteConfig:
        return drawn_but(make_site(**parts), *(undrawn or ("rod",)))

    return make


class Levels(nn.Module):
    """Reads the class off the image: v is class v."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -self.scale * (image - torch.arange(3.0).reshape(1, 3, 1, 1, 1)).abs()


class Sure(nn.Module):
    def forward(self, maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return 2.25 + 0 * image


def draw(case: CachedCase, *organs: str) -> None:
    """As if this case alone had been drawn so."""
    case.facts["annotated"] = list(organs)


# ---- cases and patches --------------------------------------------------------------------------


def test_nothing_of_an_unannotated_organ_gets_into_the_cache(
    make_partly: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_partly(labelled=1, unlabelled=1)
    data = prepare_site(config, make_protocol())
    (case,) = data.labelled
    assert case.annotated == {"ball"}
    assert case.label is not None
    assert set(np.unique(case.label)) == {0, 1}
    assert set(case.organ_places) == {1}
    assert data.unlabelled[0].annotated == frozenset()


def test_another_word_on_what_is_drawn_is_another_entry(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    whole = make_site(labelled=1)
    sites = [whole, *(drawn_but(whole, *undrawn) for undrawn in ((), ("rod",), ("ball",)))]
    keys = [prepare_site(site, make_protocol()).labelled[0].key for site in sites]
    # An organ that is none of the study's changes nothing.
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_drawn_organ_that_is_declared_unannotated_is_refused(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    config = make_site(labelled=1).model_copy(update={"not_annotated": ("rod",)})
    with pytest.raises(LayoutError, match="holds rod, which the site's file declares as not"):
        prepare_site(config, make_protocol())


def test_patches_say_which_organs_are_drawn(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    data = prepare_site(make_site(labelled=2), protocol)

    def undrawn(cases: Sequence[CachedCase]) -> Any:
        return (
            PatchSampler(protocol, np.random.default_rng(1), None).labelled(cases, 12).unannotated
        )

    assert undrawn(data.labelled) is None
    draw(data.labelled[1], "ball")
    mixed = undrawn(data.labelled)
    assert mixed.shape == (12, 3)
    assert not mixed[:, :2].any()
    assert 0 < mixed[:, 2].sum() < 12
    draw(data.labelled[0], "rod")
    assert (undrawn(data.labelled).sum(1) == 1).all()


def test_boxes_are_those_of_cases_with_every_organ(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    protocol = make_protocol()
    cases = prepare_site(make_site(labelled=3), protocol).labelled
    draw(cases[1], "ball")
    assert annotated_boxes(cases, protocol.organ_names) == [cases[0].organ_box, cases[2].organ_box]
    assert count_annotated(cases, protocol.organ_names) == {"ball": 3, "rod": 2}


@pytest.mark.parametrize("method", ["asdnet", "semi-fcn", "semi-embed"])
def test_a_round_of_training_at_a_partly_drawn_site(
    make_partly: MakeSite, make_protocol: MakeProtocol, method: str
) -> None:
    config = make_partly(labelled=2, unlabelled=1)
    protocol = make_protocol(
        method={"name": method, "pseudo_labels_at": (0.0,)}, training={"views": "weak"}
    )
    data = prepare_site(config, protocol)
    confidence = None
    if protocol.method.trains_confidence:
        confidence = wire_weights(build_confidence(protocol).state_dict())
    result = train_round(
        config,
        protocol,
        plan_round(protocol, 1),
        data,
        wire_weights(build_segmenter(protocol).state_dict()),
        confidence,
        run="tiny-1",
    )
    assert result.report.labelled == 2
    assert result.report.losses["dice"].count == protocol.training.local_steps
    assert all(torch.isfinite(tensor).all() for tensor in result.segmenter.values())


def test_what_the_files_say_of_an_unannotated_organ_changes_no_weight(
    make_partly: MakeSite, make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    config, protocol = make_partly(labelled=2, unlabelled=1), make_protocol()
    trained = []
    for number in range(2):
        own = config.model_copy(update={"state": tmp_path / f"state-{number}"})
        data = prepare_site(own, protocol)
        result = train_round(
            own,
            protocol,
            plan_round(protocol, 1),
            data,
            wire_weights(build_segmenter(protocol).state_dict()),
            wire_weights(build_confidence(protocol).state_dict()),
            run="tiny-1",
        )
        trained.append((data, {**result.segmenter, **(result.confidence or {})}))
        for path in (config.data / "labelsTr").glob("*"):
            label = sitk.ReadImage(str(path))
            sitk.WriteImage(sitk.Cast(label == 2, sitk.sitkUInt8) * 2, str(path))
    (first, one), (second, other) = trained
    assert first.labelled[0].key != second.labelled[0].key
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- scores -------------------------------------------------------------------------------------


def evaluated(
    config: SiteConfig,
    protocol: StudyProtocol,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[SiteData], None] = lambda _: None,
) -> EvaluationReport:
    """Scores of a network that sees every organ, drawn or not, where it is."""
    whole = prepare_site(drawn_but(config), protocol)
    data = prepare_site(config, protocol)
    monkeypatch.setattr(client.training.evaluation, "load_segmenter", lambda *_: Levels())
    monkeypatch.setattr(client.training.evaluation, "load_confidence", lambda *_: Sure())
    pairs = zip((*data.validation, *data.test), (*whole.validation, *whole.test), strict=True)
    for case, all_drawn in pairs:
        case.__dict__["image"] = np.array(all_drawn.label, np.float32)
    prepare(data)
    return evaluate_site(config, protocol, data, {}, {})


def test_only_drawn_organs_are_scored(
    make_partly: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = evaluated(make_partly(labelled=1, validation=1, test=2), make_protocol(), monkeypatch)
    assert report.cases == {"validation": 1, "test": 2}
    assert report.scores["test"]["ball"].dsc == ScoreSum(sum=2.0, sum_of_squares=2.0, count=2)
    for part in ("validation", "test"):
        assert report.scores[part]["rod"] == OrganSums()


def test_voxels_of_unannotated_organs_are_neither_right_nor_wrong(
    make_partly: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    balls = []

    def prepare(data: SiteData) -> None:
        (case,) = data.validation
        assert case.label is not None
        balls.append(int((case.label == 1).sum()))
        image = case.__dict__["image"]
        assert (image == 2).any()
        # Ten voxels of the ball are taken for background, ten of the background for the ball.
        for value, other in ((1, 0), (0, 1)):
            image[tuple(np.argwhere(np.asarray(case.label) == value)[:10].T)] = other

    config = make_partly(labelled=1, validation=1)
    report = evaluated(config, make_protocol(), monkeypatch, prepare)
    for counts in report.reliability.values():
        assert (sum(counts.right), sum(counts.wrong)) == (balls[0] - 10, 10)


def test_few_cases_are_counted_by_organ(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(data: SiteData) -> None:
        draw(data.validation[0], "ball")
        draw(data.test[0], "ball")
        draw(data.test[1], "ball")

    config = make_site(labelled=1, validation=2, test=4, threshold=2)
    report = evaluated(config, make_protocol(), monkeypatch, prepare)
    # One validation case has a rod: its score would be that patient's.
    assert report.scores["validation"]["ball"].dsc.count == 2
    assert report.scores["validation"]["rod"] == OrganSums()
    assert report.scores["test"]["ball"].dsc.count == 4
    assert report.scores["test"]["rod"].dsc.count == 2
    # The one rod is not among the counts of right and wrong voxels either.
    wrong = report.reliability["softmax"].wrong
    assert sum(wrong) == 0
    assert report.cases == {"validation": 2, "test": 4}


def test_cases_without_a_reported_organ_are_not_even_predicted(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(data: SiteData) -> None:
        draw(data.test[0], "ball")
        draw(data.test[1], "rod")

    config = make_site(labelled=1, test=2, threshold=2)
    report = evaluated(config, make_protocol(), monkeypatch, prepare)
    assert report.cases == {"validation": 0, "test": 0}
    assert all(sums == OrganSums() for sums in report.scores["test"].values())


def test_the_scores_of_one_case_that_was_not_missed_stay_at_the_site(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(data: SiteData) -> None:
        data.test[0].__dict__["image"][:] = 0  # missed: a DSC of 0, and no distance

    config = make_site(labelled=1, test=2, threshold=2)
    report = evaluated(config, make_protocol(), monkeypatch, prepare)
    # The sum over both would be the other's score, and the count of failures says so.
    assert report.scores["test"]["ball"] == OrganSums()
    assert report.cases["test"] == 0


# ---- what is declared ---------------------------------------------------------------------------


@pytest.mark.usefixtures("flower_task")
@pytest.mark.parametrize(
    ("undrawn", "annotated", "boxes"),
    [(("rod",), {"ball": 3, "rod": 0}, 0), ((), {"ball": 3, "rod": 3}, 3)],
)
def test_a_site_declares_what_it_has_drawn(
    make_site: MakeSite,
    make_protocol: MakeProtocol,
    undrawn: tuple[str, ...],
    annotated: dict[str, int],
    boxes: int,
) -> None:
    config, protocol = drawn_but(make_site(labelled=3), *undrawn), make_protocol()
    message = Message(pack_instruction(protocol, run="tiny-1"), 17, MessageType.QUERY)
    message.metadata.__dict__["_message_id"] = "instruction-1"
    context = Context(run_id=2, node_id=17, node_config={}, state=RecordDict(), run_config={})
    facts = read_facts(build_client_app(lambda _: config)(message, context).content, protocol)
    assert (facts.labelled, facts.annotated) == (3, annotated)
    assert {edge.count for edge in facts.box} == {boxes}
