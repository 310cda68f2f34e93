"""What a confidence map is worth, on maps made by hand."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simulation.experiment.scoring
from asdnet_models.inference.sliding_window import predict_confidence
from asdnet_models.sums import FailureCount, OrganSums, ScoreSum
from client.data.dataset import prepare_site
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.experiment.scoring import (
    Model,
    auroc,
    calibration_error,
    confidence_rows,
    score_both_ways,
    score_sums,
    scored_cases,
)
from simulation.experiment.store import CaseRow
from simulation.layouts import StudyCase

PREDICTED = np.array([0, 0, 1, 1, 2, 0, 0, 0], np.uint8)
REFERENCE = np.array([0, 0, 1, 0, 1, 0, 0, 0], np.uint8)
RIGHT = REFERENCE == PREDICTED


def maps(confidence: np.ndarray) -> dict:  # type: ignore[type-arg]
    return {"confidence": confidence, "softmax": np.full(8, 0.75, np.float32)}


def test_a_perfect_map_has_auroc_one() -> None:
    rows = confidence_rows("A", "x", maps(RIGHT.astype(np.float32)), PREDICTED, REFERENCE)
    found = {(row.score, row.region): row for row in rows}
    assert len(found) == 4
    whole, organs = found["confidence", "all"], found["confidence", "organs"]
    assert (whole.auroc, whole.calibration_error, whole.voxels) == (1.0, 0.0, 8)
    assert (organs.auroc, organs.voxels) == (1.0, 3)
    assert organs.accuracy == pytest.approx(1 / 3)
    # A constant map orders nothing; six of eight are right, as it says.
    assert found["softmax", "all"].auroc == 0.5
    assert found["softmax", "all"].calibration_error == pytest.approx(0.0)
    assert found["softmax", "organs"].calibration_error == pytest.approx(0.75 - 1 / 3)


def test_a_map_turned_round_has_auroc_zero() -> None:
    assert auroc(RIGHT, 1 - RIGHT.astype(np.float32)) == 0.0


def test_where_all_is_right_or_wrong_there_is_no_auroc() -> None:
    rows = confidence_rows("A", "x", maps(np.zeros(8, np.float32)), PREDICTED, PREDICTED)
    assert {row.auroc for row in rows} == {None}
    assert {row.accuracy for row in rows} == {1.0}
    assert auroc(np.zeros(3, bool), np.zeros(3, np.float32)) is None


def test_without_a_predicted_organ_that_region_has_no_row() -> None:
    nothing = np.zeros(8, np.uint8)
    rows = confidence_rows("A", "x", maps(np.zeros(8, np.float32)), nothing, REFERENCE)
    assert {row.region for row in rows} == {"all"}


def test_calibration_is_by_bins() -> None:
    # Bin 0: two values of .05, one right: off by .45.  Bin 9 (1.0 is in it): right, value 1.
    right = np.array([True, False, True, True])
    values = np.array([0.05, 0.05, 1.0, 1.0], np.float32)
    assert calibration_error(right, values) == pytest.approx(0.5 * 0.45)


def test_cases_without_reference_and_training_cases_are_not_scored() -> None:
    there = Path("there")
    cases = [
        StudyCase(name=f"{part}-{bool(ref)}", image=there, label=None, reference=ref, part=part)
        for part in ("labelled", "unlabelled", "validation", "test")
        for ref in (there, None)
    ]
    assert [case.name for case in scored_cases(cases)] == ["unlabelled-True", "test-True"]


def test_sums_are_by_site_over_the_cases_of_one_part() -> None:
    def row(site: str, part: Literal["test", "withheld"], asd_mm: float | None) -> CaseRow:
        return CaseRow(
            site=site, case="x", part=part, organ="ball", dsc=0.5, asd_mm=asd_mm,
            failure="missed" if asd_mm is None else None,
        )  # fmt: skip

    rows = [row("B", "test", 1.0), row("A", "test", 2.0), row("A", "test", None)]
    sums = score_sums([*rows, row("A", "withheld", 9.0)], "test", ["ball", "rod"])
    assert list(sums) == ["A", "B"]
    assert sums["A"]["ball"] == OrganSums(
        dsc=ScoreSum.of([0.5, 0.5]),
        asd_mm=ScoreSum.of([2.0]),
        failures=FailureCount(cases=2, missed=1),
    )
    assert sums["A"]["rod"] == OrganSums()


def test_a_case_is_scored_as_the_study_says_and_with_the_largest_component(
    make_site: Callable[..., SiteConfig],
    make_protocol: Callable[..., StudyProtocol],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One prediction, with a second piece of the ball in a corner."""
    config = make_site(labelled=1, test=1)
    protocol = make_protocol(evaluation={"largest_component": False})
    cached = prepare_site(config, protocol).test[0]
    assert cached.label is not None
    label = np.array(cached.label)
    assert not label[:2, :2, :2].any()
    label[:2, :2, :2] = 1
    probabilities = torch.nn.functional.one_hot(torch.from_numpy(label).long(), 3)
    found = (cached, probabilities.permute(3, 0, 1, 2)[None].float(), cached.case.read_scan())
    monkeypatch.setattr(simulation.experiment.scoring, "_predicted", lambda *_: found)
    case = StudyCase(
        name="x", image=cached.case.image, label=None, reference=cached.case.label, part="test"
    )
    model = Model(config=config, protocol=protocol, segmenter={}, confidence=None)
    with ThreadPoolExecutor(1) as pool:
        as_it_is, largest = score_both_ways(model, [case], pool)
    ball, alone = (next(r for r in rows if r.organ == "ball") for rows in (as_it_is, largest))
    assert ball.dsc < alone.dsc
    assert (ball.hd95_mm or 0) >= (alone.hd95_mm or 0)
    assert (ball.asd_mm or 0) > (alone.asd_mm or 0)
    assert [row for row in as_it_is if row.organ == "rod"] == [
        row for row in largest if row.organ == "rod"
    ]


class _FirstClass(nn.Module):
    """A D whose logit is that of the first class's probability, or one such value a patch."""

    def __init__(self, *, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, maps: Tensor, image: Tensor) -> Tensor:
        found = torch.logit(maps[:, :1], eps=1e-4)
        return found.amax((2, 3, 4), keepdim=True) if self.whole else found


def test_the_confidence_map_lies_on_the_maps_voxels() -> None:
    first = torch.rand(1, 1, 20, 12, 9, generator=torch.Generator().manual_seed(1))
    maps = torch.cat((first, 1 - first), 1)
    found = predict_confidence(_FirstClass(), maps, torch.zeros_like(first), (8, 8, 8))
    torch.testing.assert_close(found, first, atol=2e-3, rtol=0)


def test_one_logit_a_patch_holds_for_the_patch() -> None:
    maps = torch.full((1, 2, 8, 8, 8), 0.1)
    maps[0, 0, 3, 3, 3] = 0.8
    found = predict_confidence(_FirstClass(whole=True), maps, maps[:, :1], (8, 8, 8))
    torch.testing.assert_close(found, torch.full((1, 1, 8, 8, 8), 0.8))
