"""DSC and ASD of a site's cases, on the grid that each was acquired on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import nn

from asdnet_models.inference import predict_probabilities
from asdnet_models.networks import build_segmenter
from asdnet_models.scores import OrganScore, score_label_maps
from client.cache import CachedCase
from client.dataset import SiteData
from client.preprocessing import probabilities_to_grid
from client.scans import read_image, read_label_map
from client.training import choose_device, load_wire_weights
from protocol.messages import EvaluationReport, Weights
from protocol.sites import SiteConfig
from protocol.study import StudyProtocol
from protocol.sums import ScoreSum


@dataclass(frozen=True, kw_only=True)
class CaseScores:
    """One case's scores by organ; never leaves the site."""

    case: str
    organs: dict[str, OrganScore]


def load_segmenter(config: SiteConfig, protocol: StudyProtocol, weights: Weights) -> nn.Module:
    """S with these weights on the site's device, ready for inference."""
    if config.threads:
        torch.set_num_threads(config.threads)
    segmenter = build_segmenter(protocol)
    load_wire_weights(segmenter, weights)
    return segmenter.to(choose_device(config)).eval()


def evaluate_site(
    config: SiteConfig, protocol: StudyProtocol, data: SiteData, weights: Weights
) -> EvaluationReport:
    """Scores of the validation and the test cases, as sums over cases.

    A part with fewer cases than the site's `min_cases_reported` is reported as empty: the sum
    over one case would be that patient's value.
    """
    started = time.perf_counter()
    segmenter = load_segmenter(config, protocol, weights)
    parts: dict[str, Sequence[CaseScores]] = {}
    for part, cases in (("validation", data.validation), ("test", data.test)):
        reported = cases if len(cases) >= config.min_cases_reported else ()
        parts[part] = [score_case(segmenter, protocol, case) for case in reported]
    return EvaluationReport(
        seconds=time.perf_counter() - started,
        cases={part: len(scores) for part, scores in parts.items()},
        dsc={part: dsc_sums(protocol, scores) for part, scores in parts.items()},
        asd_mm={part: asd_sums(protocol, scores) for part, scores in parts.items()},
    )


def score_case(segmenter: nn.Module, protocol: StudyProtocol, case: CachedCase) -> CaseScores:
    """Predict one case and score it against its label map, in world mm."""
    assert case.case.label is not None
    scan = read_image(case.case.image, case=case.name)
    label = read_label_map(case.case.label, scan, protocol.organs, case=case.name)
    predicted = predict_label_map(segmenter, protocol, case, scan)
    spacing_zyx = scan.GetSpacing()[::-1]
    scores = score_label_maps(
        predicted, sitk.GetArrayFromImage(label), spacing_zyx, protocol.organs
    )
    return CaseScores(case=case.name, organs=scores)


def predict_label_map(
    segmenter: nn.Module, protocol: StudyProtocol, case: CachedCase, scan: sitk.Image
) -> NDArray[np.uint8]:
    """The study's label values on the scan's own grid, (Z, Y, X)."""
    device = next(segmenter.parameters()).device
    image = torch.from_numpy(np.array(case.image))[None, None].to(device)
    probabilities = predict_probabilities(
        segmenter, image, protocol.patch_voxels, overlap=protocol.evaluation.overlap
    )
    channels = probabilities_to_grid(probabilities[0].cpu().numpy(), case.grid(), scan)
    if protocol.evaluation.largest_component:
        channels = _largest_components(channels, protocol.classes)
    values = np.array([0, *(protocol.organs[organ] for organ in protocol.organ_names)], np.uint8)
    label: NDArray[np.uint8] = values[channels]
    return label


def _largest_components(channels: NDArray[np.uint8], classes: int) -> NDArray[np.uint8]:
    """One connected component an organ; smaller pieces become background."""
    kept = np.zeros_like(channels)
    for value in range(1, classes):
        mask = sitk.GetImageFromArray((channels == value).astype(np.uint8))
        ranked = sitk.RelabelComponent(sitk.ConnectedComponent(mask), sortByObjectSize=True)
        kept[sitk.GetArrayViewFromImage(ranked) == 1] = value
    return kept


def dsc_sums(protocol: StudyProtocol, scores: Sequence[CaseScores]) -> dict[str, ScoreSum]:
    """Sums of DSC by organ."""
    return {
        organ: ScoreSum.of((case.organs[organ].dsc for case in scores), _failures(scores, organ))
        for organ in protocol.organ_names
    }


def asd_sums(protocol: StudyProtocol, scores: Sequence[CaseScores]) -> dict[str, ScoreSum]:
    """Sums of ASD in mm by organ; undefined ones are not counted, failures are."""
    return {
        organ: ScoreSum.of((case.organs[organ].asd_mm for case in scores), _failures(scores, organ))
        for organ in protocol.organ_names
    }


def _failures(scores: Sequence[CaseScores], organ: str) -> int:
    return sum(case.organs[organ].failure for case in scores)
