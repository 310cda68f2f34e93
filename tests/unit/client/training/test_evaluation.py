"""Scores of a site's cases, with networks that are perfect, blind or odd."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

import client.training.evaluation
from asdnet_models.inference.predictor import largest_components
from asdnet_models.networks import build_segmenter
from asdnet_models.reliability import LOWEST, STEP, Reliability
from asdnet_models.sums import FailureCount, OrganSums, ScoreSum
from client.data.dataset import prepare_site
from client.data.files.image_io import read_image
from client.training.evaluation import (
    evaluate_site,
    predict_label_map,
    predict_on_grid,
    score_probabilities,
)
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport
from protocol.wire.weights import wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]


class Levels(nn.Module):
    """Reads the class off the image: v is class v, whatever the patch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        levels = torch.arange(3.0).reshape(1, 3, 1, 1, 1)
        return -self.scale * (image - levels).abs()


class Blind(nn.Module):
    """Everything is background."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([9.0, 0.0, 0.0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.bias.reshape(1, 3, 1, 1, 1) + 0 * image


def evaluate(
    config: SiteConfig,
    protocol: StudyProtocol,
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    *,
    perfect: bool = False,
) -> EvaluationReport:
    data = prepare_site(config, protocol)
    monkeypatch.setattr(client.training.evaluation, "load_segmenter", lambda *_: network)
    if perfect:
        for case in (*data.validation, *data.test):
            assert case.label is not None
            case.__dict__["image"] = np.asarray(case.label, np.float32)
    return evaluate_site(config, protocol, data, {})


def relabel(config: SiteConfig, change: Callable[[Any], Any]) -> None:
    for folder in ("labelsVal", "labelsTs"):
        for path in (config.data / folder).glob("*"):
            image = sitk.ReadImage(str(path))
            changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
            changed.CopyInformation(image)
            sitk.WriteImage(changed, str(path))


def test_a_perfect_network(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site(labelled=1, validation=1, test=2)
    report = evaluate(config, make_protocol(), Levels(), monkeypatch, perfect=True)
    assert report.cases == {"validation": 1, "test": 2}
    for organ in ("ball", "rod"):
        sums = report.scores["test"][organ]
        assert (sums.dsc.sum, sums.dsc.count) == (sums.nsd.sum, sums.nsd.count) == (2.0, 2)
        for distance in (sums.asd_mm, sums.hd95_mm):
            assert (distance.sum, distance.count) == (0.0, 2)
        assert sums.failures == FailureCount(cases=2)


def test_parts_with_few_cases_are_not_reported(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site(labelled=1, validation=1, test=2, threshold=2)
    report = evaluate(config, make_protocol(), Levels(), monkeypatch, perfect=True)
    assert report.cases == {"validation": 0, "test": 2}
    assert report.scores["validation"]["ball"] == OrganSums()


def test_an_organ_that_neither_has(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site(labelled=1, test=1)
    relabel(config, lambda label: np.where(label == 5, 0, label).astype(np.uint8))
    report = evaluate(config, make_protocol(), Levels(), monkeypatch, perfect=True)
    sums = report.scores["test"]["rod"]
    assert (sums.dsc.sum, sums.dsc.count, sums.nsd.sum) == (1.0, 1, 1.0)
    assert (sums.asd_mm.count, sums.hd95_mm.count) == (0, 0)
    assert sums.failures == FailureCount(cases=1)


def test_a_missed_organ_is_a_failure_and_never_nan(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_site(labelled=1, test=2)
    report = evaluate(config, make_protocol(), Blind(), monkeypatch)
    for organ in ("ball", "rod"):
        sums = report.scores["test"][organ]
        assert (sums.dsc.sum, sums.dsc.count) == (sums.nsd.sum, sums.nsd.count) == (0.0, 2)
        assert sums.asd_mm == sums.hd95_mm == ScoreSum()
        assert sums.failures == FailureCount(cases=2, missed=2)


def test_prediction_is_on_the_scans_own_grid(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    # A study grid of 16 x 12 x 5 voxels: padded to the window, un-padded, and resampled back.
    protocol = make_protocol(spacing_mm=(3.0, 4.0, 10.0))
    config = make_site(labelled=1)
    case = prepare_site(config, protocol).labelled[0]
    assert case.label is not None
    assert case.image.shape == (16, 12, 5)
    case.__dict__["image"] = np.asarray(case.label, np.float32)
    scan = read_image(case.case.image, case=case.name)
    predicted = predict_label_map(Levels(), protocol, case, scan)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(case.case.label)))
    assert predicted.shape == truth.shape
    assert predicted.dtype == np.uint8
    assert set(np.unique(predicted)) == {0, 2, 5}
    for value in (2, 5):
        centres = [np.argwhere(a == value).mean(0) for a in (predicted, truth)]
        assert np.abs(centres[0] - centres[1]).max() < 2.5  # half a slice of 10 mm


def test_distances_are_in_mm_of_the_scan(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    # Prediction one voxel of 2 mm further along x on every slice.
    config = make_site(labelled=1, test=1)

    def slab(label: Any) -> Any:
        label[...] = 0
        label[:, :, 8:16] = 2
        return label

    relabel(config, slab)
    protocol = make_protocol()
    case = prepare_site(config, protocol).test[0]
    assert case.label is not None
    case.__dict__["image"] = np.roll(np.asarray(case.label, np.float32), 1, axis=0)
    probabilities = predict_on_grid(Levels(), protocol, case)
    score = score_probabilities(probabilities, protocol, case).organs["ball"]
    assert score.dsc == pytest.approx(7 / 8)
    # Two faces of 24 x 24 are 2 mm off, four sides of 8 x 24 are not: 2 * 1152 / 1920 mm.
    assert score.asd_mm == pytest.approx(1.2, rel=0.05)


def test_the_largest_component_of_each_organ() -> None:
    channels = np.zeros((8, 8, 8), np.uint8)
    channels[0:3, 0:3, 0:3] = 1
    channels[6, 6, 6] = 1
    channels[4:6, 0:2, 0:2] = 2
    channels[7, 0, 7] = 2
    kept = largest_components(channels, [1, 2, 3])
    assert kept[6, 6, 6] == 0
    assert ((kept == 1).sum(), (kept == 2).sum(), (kept == 3).sum()) == (27, 8, 0)
    kept = largest_components(channels, [2])
    assert ((kept == 1).sum(), (kept == 2).sum()) == (28, 8)
    assert np.array_equal(largest_components(channels, []), channels)


@pytest.mark.parametrize(
    ("asked", "kept_whole"), [(False, False), (True, True), (["ball"], True), (["rod"], False)]
)
def test_the_protocol_decides_on_components(
    make_site: MakeSite, make_protocol: MakeProtocol, asked: bool | list[str], kept_whole: bool
) -> None:
    protocol = make_protocol(evaluation={"largest_component": asked})
    case = prepare_site(make_site(labelled=1), protocol).labelled[0]
    assert case.label is not None
    speckled = np.array(case.label, np.float32)
    speckled[0, 0, 0] = 1.0
    case.__dict__["image"] = speckled
    scan = read_image(case.case.image, case=case.name)
    assert (predict_label_map(Levels(), protocol, case, scan)[0, 0, 0] == 2) != kept_whole


def test_a_real_network_scores_in_bounds(
    make_site: MakeSite, make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    config, protocol = make_site(), make_protocol()
    data = prepare_site(config, protocol)
    weights = wire_weights(build_segmenter(protocol).state_dict())
    reports = [evaluate_site(config, protocol, data, weights) for _ in range(2)]
    assert reports[0].scores == reports[1].scores
    assert all(0 <= s.dsc.sum <= s.dsc.count for s in reports[0].scores["test"].values())
    assert reports[0].seconds > 0


def test_maps_are_held_against_correctness_on_validation_cases(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sure(nn.Module):
        def forward(self, maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return 2.25 + 0 * image

    config, protocol = make_site(labelled=1, validation=1, test=1), make_protocol()
    data = prepare_site(config, protocol)
    monkeypatch.setattr(client.training.evaluation, "load_segmenter", lambda *_: Levels())
    monkeypatch.setattr(client.training.evaluation, "load_confidence", lambda *_: Sure())
    (case,) = data.validation
    assert case.label is not None
    image = np.array(case.label, np.float32)
    organ = np.argwhere(image == 1)[:10]
    image[tuple(organ.T)] = 2  # ten voxels of the ball are taken for the rod
    case.__dict__["image"] = image
    report = evaluate_site(config, protocol, data, {}, {})
    confidence = report.reliability["confidence"]
    assert sum(confidence.wrong) == 10
    assert sum(confidence.right) == int((case.label > 0).sum()) - 10
    at = int((2.25 - LOWEST) / STEP)
    assert confidence.wrong[at] == 10
    softmax = report.reliability["softmax"]
    assert softmax.wrong[-1] == 10  # this segmenter is always sure


def test_without_confidence_weights_nothing_is_held_against_anything(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = evaluate(make_site(), make_protocol(), Blind(), monkeypatch)
    assert not any(sum(c.right) + sum(c.wrong) for c in report.reliability.values())


# ---- attacks on the numbers themselves, with weights that no training gives ---------------------


def patient(image: torch.Tensor) -> torch.Tensor:
    """Which patient's scan a patch is of: here tens, in life any feature that tells them apart."""
    return torch.floor(image / 10)


class Reader(Levels):
    """Sees the organs of these patients whole, and of the others' at most so many voxels."""

    def __init__(self, seen: tuple[int, ...], voxels: int = 0) -> None:
        super().__init__()
        self.seen, self.voxels = seen, voxels

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        label = image - 10 * patient(image)
        if int(patient(image).flatten()[0]) not in self.seen:
            organ = torch.nonzero(label.flatten() == 1)[: self.voxels]
            label = torch.zeros_like(label).flatten().index_fill(0, organ.flatten(), 1.0)
        return super().forward(label.reshape(image.shape))


class ByPatient(nn.Module):
    """A confidence network that gives each patient's scan one value of its own."""

    def forward(self, maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return 2.2 * patient(image)


def attacked(
    config: SiteConfig, protocol: StudyProtocol, monkeypatch: pytest.MonkeyPatch, network: nn.Module
) -> tuple[EvaluationReport, list[int]]:
    """What leaves, and each patient's voxels of both organs together."""
    data = prepare_site(config, protocol)
    volumes = []
    for number, case in enumerate(data.validation):
        assert case.label is not None
        volumes.append(int((case.label > 0).sum()))
        case.__dict__["image"] = np.asarray(case.label, np.float32) + 10 * number
    monkeypatch.setattr(client.training.evaluation, "load_segmenter", lambda *_: network)
    monkeypatch.setattr(client.training.evaluation, "load_confidence", lambda *_: ByPatient())
    return evaluate_site(config, protocol, data, {}, {}), volumes


@pytest.mark.parametrize("voxels", [0, 1])
def test_one_patients_volume_does_not_leave_with_three_cases(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch, voxels: int
) -> None:
    """S sees the organs of one patient alone: the count of right voxels was their volume."""
    config = make_site(labelled=1, validation=3, threshold=1)
    protocol = make_protocol(evaluation={"largest_component": False})
    report, volumes = attacked(config, protocol, monkeypatch, Reader((1,), voxels))
    right = sum(report.reliability["softmax"].right)
    assert volumes[1] <= right <= volumes[1] + 40 * voxels  # the attack, where one may be reported
    config = config.model_copy(update={"min_cases_reported": 3})
    report, _ = attacked(config, protocol, monkeypatch, Reader((1,), voxels))
    assert report.cases["validation"] == 0
    for organ in ("ball", "rod"):
        assert report.scores["validation"][organ] == OrganSums()
    assert report.reliability["softmax"] == report.reliability["confidence"] == Reliability()


def test_a_confidence_network_cannot_sort_patients_into_bins(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S sees all organs and D gives each patient a bin: each bin was one patient's volume."""
    config = make_site(labelled=1, validation=3, threshold=1)
    protocol = make_protocol(evaluation={"largest_component": False})
    report, volumes = attacked(config, protocol, monkeypatch, Reader((0, 1, 2)))
    assert sorted(n for n in report.reliability["confidence"].right if n) == sorted(volumes)
    config = config.model_copy(update={"min_cases_reported": 3})
    report, _ = attacked(config, protocol, monkeypatch, Reader((0, 1, 2)))
    assert [n for n in report.reliability["confidence"].right if n] == [sum(volumes)]
    assert report.scores["validation"]["ball"].dsc.count == 3
