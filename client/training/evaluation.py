"""Scores of a site's cases, on the grid that each was acquired on."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asdnet_models.device import torch_device
from asdnet_models.inference.predictor import labels_on_scan
from asdnet_models.inference.sliding_window import segment_volume, trust_volume
from asdnet_models.metrics import OrganScore, dice, score_label_maps
from asdnet_models.networks import build_confidence, build_segmenter, load_weights
from asdnet_models.reliability import SCORES, Reliability, TrustScore
from asdnet_models.sums import OrganSums
from client.data.cache import CachedCase
from client.data.dataset import SiteData
from client.training.map_scores import (
    Expected,
    expected_scores,
    organ_reliability,
    sums_beside,
    sums_of_scans,
)
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport, ExpectedSums
from protocol.wire.small_groups import merged_bins, score_sums
from protocol.wire.weights import Weights


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
    load_weights(segmenter, weights)
    return segmenter.to(torch_device(config.device)).eval()


def load_confidence(config: SiteConfig, protocol: StudyProtocol, weights: Weights) -> nn.Module:
    """D, likewise."""
    confidence = build_confidence(protocol)
    load_weights(confidence, weights)
    return confidence.to(torch_device(config.device)).eval()


def evaluate_site(
    config: SiteConfig,
    protocol: StudyProtocol,
    data: SiteData,
    weights: Weights,
    confidence_weights: Weights | None = None,
) -> EvaluationReport:
    """Scores of the validation and the test cases, as sums over cases that may leave.

    What stands on fewer cases than the site's `min_cases_reported` is empty
    (`protocol/wire/small_groups.py`).  Given D's weights, its map and the softmax are held against
    correctness on the validation cases.  A site that has no case to score says what the maps expect
    of the DSC of some unlabelled scans.
    """
    started = time.perf_counter()
    segmenter = load_segmenter(config, protocol, weights)
    confidence = None
    if confidence_weights is not None and protocol.method.trains_confidence:
        confidence = load_confidence(config, protocol, confidence_weights)
    parts: dict[str, _PartSums] = {}
    for part, cases in (("validation", data.validation), ("test", data.test)):
        blocks = {
            organ: [
                block
                for block in data.blocks(organ, [c for c in cases if organ in c.annotated])
                if len(block) >= config.min_cases_reported
            ]
            for organ in protocol.organ_names
        }
        judged = part == "validation"
        measured = _measured(segmenter, confidence, protocol, cases, blocks, judged=judged)
        parts[part] = _part_sums(measured, blocks, config.min_cases_reported)
    scans = _of_scans(segmenter, confidence, protocol, data, config.min_cases_reported)
    return EvaluationReport(
        seconds=time.perf_counter() - started,
        cases={part: sums.cases for part, sums in parts.items()},
        scores={part: sums.scores for part, sums in parts.items()},
        reliability=parts["validation"].reliability,
        expected=scans or parts["validation"].expected,
    )


def _of_scans(
    segmenter: nn.Module,
    confidence: nn.Module | None,
    protocol: StudyProtocol,
    data: SiteData,
    fewest: int,
) -> Mapping[TrustScore, Mapping[str, ExpectedSums]]:
    def expected(case: CachedCase) -> Expected:
        probabilities = predict_on_grid(segmenter, protocol, case)
        maps = trust_maps(confidence, probabilities, protocol, case)
        return expected_scores(probabilities, maps, protocol.organ_names)

    blocks = [
        [expected(case) for case in block] for block in data.standing_in() if len(block) >= fewest
    ]
    return sums_of_scans(blocks, protocol.organ_names, fewest)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """One case's scores, and how its maps did, by organ; never leaves the site."""

    organs: Mapping[str, OrganScore]
    reliability: Mapping[TrustScore, Mapping[str, Reliability]]
    expected: Expected


@dataclass(frozen=True, kw_only=True)
class _PartSums:
    """What may leave of one part."""

    cases: int
    scores: Mapping[str, OrganSums]
    reliability: Mapping[TrustScore, Reliability]
    expected: Mapping[TrustScore, Mapping[str, ExpectedSums]]


Blocks = Mapping[str, Sequence[Sequence[CachedCase]]]


def _measured(
    segmenter: nn.Module,
    confidence: nn.Module | None,
    protocol: StudyProtocol,
    cases: Sequence[CachedCase],
    blocks: Blocks,
    *,
    judged: bool,
) -> dict[str, _Measured]:
    """By cache key, what each case that may be reported scores in the organs that may be.

    The maps are looked at where they are `judged`, against correctness where D is among them.
    """
    measured: dict[str, _Measured] = {}
    channel = {organ: number for number, organ in enumerate(protocol.organ_names, 1)}
    for case in cases:
        organs = {o for o, of_organ in blocks.items() if any(case in block for block in of_organ)}
        if not organs:
            continue
        probabilities = predict_on_grid(segmenter, protocol, case)
        scores = score_probabilities(probabilities, protocol, case)
        maps = trust_maps(confidence, probabilities, protocol, case) if judged else {}
        channels = {organ: channel[organ] for organ in organs}
        measured[case.key] = _Measured(
            organs=only_organs(scores, organs).organs,
            reliability={
                score: organ_reliability(trust, probabilities, case, channels)
                for score, trust in maps.items()
                if confidence is not None
            },
            expected=expected_scores(probabilities, maps, protocol.organ_names) if judged else {},
        )
    return measured


def _part_sums(measured: Mapping[str, _Measured], blocks: Blocks, fewest: int) -> _PartSums:
    sums: dict[str, OrganSums] = {}
    reliability = dict.fromkeys(SCORES, Reliability())
    scored: set[str] = set()
    for organ, of_organ in blocks.items():
        cases = [[measured[case.key] for case in block] for block in of_organ]
        scores = [[case.organs[organ] for case in block] for block in cases]
        kept, sums[organ] = score_sums(scores, fewest)
        for number, block in enumerate(cases):
            if number not in kept:
                continue
            scored |= {case.key for case in of_organ[number]}
            for score in block[0].reliability:
                # Each organ and block by itself: none can be told apart by subtracting others.
                counts = [case.reliability[score][organ] for case in block]
                reliability[score] += merged_bins(counts, fewest)
    return _PartSums(
        cases=len(scored),
        scores=sums,
        reliability=reliability,
        expected=sums_beside(
            blocks,
            {key: case.expected for key, case in measured.items()},
            {key: case.organs for key, case in measured.items()},
            fewest,
        ),
    )


def only_organs(scores: CaseScores, organs: Collection[str]) -> CaseScores:
    """The scores of these organs alone."""
    kept = {organ: score for organ, score in scores.organs.items() if organ in organs}
    return CaseScores(case=scores.case, organs=kept)


def score_probabilities(
    probabilities: Tensor, protocol: StudyProtocol, case: CachedCase
) -> CaseScores:
    """Score a prediction on the study's grid against the case's label map, in world mm."""
    scan = case.case.read_scan()
    predicted = label_map_on_scan(probabilities[0].cpu().numpy(), protocol, case, scan)
    return score_label_map(predicted, protocol, case, scan)


def score_label_map(
    predicted: NDArray[np.uint8], protocol: StudyProtocol, case: CachedCase, scan: sitk.Image
) -> CaseScores:
    """Score a label map on the scan's own grid, (Z, Y, X), against the case's, in world mm.

    Only the organs that are annotated in the case have a score.
    """
    label = case.case.read_label(scan, protocol.organs)
    spacing_zyx = scan.GetSpacing()[::-1]
    drawn = {organ: n for organ, n in protocol.organs.items() if organ in case.annotated}
    scores = score_label_maps(
        predicted,
        sitk.GetArrayFromImage(label),
        spacing_zyx,
        drawn,
        tolerance_mm=protocol.evaluation.nsd_tolerance_mm,
    )
    return CaseScores(case=case.name, organs=scores)


def predict_label_map(
    segmenter: nn.Module, protocol: StudyProtocol, case: CachedCase, scan: sitk.Image
) -> NDArray[np.uint8]:
    """The study's label values on the scan's own grid, (Z, Y, X)."""
    probabilities = predict_on_grid(segmenter, protocol, case)
    return label_map_on_scan(probabilities[0].cpu().numpy(), protocol, case, scan)


def predict_on_grid(segmenter: nn.Module, protocol: StudyProtocol, case: CachedCase) -> Tensor:
    """S's probabilities on the study's grid, (1, C, X, Y, Z), on S's device."""
    device = next(segmenter.parameters()).device
    return segment_volume(segmenter, _volume(case, device), protocol)


def _volume(case: CachedCase, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(case.image))[None, None].to(device)


def trust_maps(
    confidence: nn.Module | None,
    probabilities: Tensor,
    protocol: StudyProtocol,
    case: CachedCase,
) -> dict[TrustScore, Tensor]:
    """M, where there is a D, and the maximum softmax, each (1, 1, X, Y, Z) on the study's grid."""
    softmax = probabilities.amax(1, keepdim=True)
    if confidence is None:
        return {"softmax": softmax}
    trust = trust_volume(confidence, probabilities, _volume(case, probabilities.device), protocol)
    return {"confidence": trust, "softmax": softmax}


def dsc_on_grid(probabilities: Tensor, protocol: StudyProtocol, case: CachedCase) -> float:
    """Mean DSC over the organs that are annotated in a case, on the study's grid.

    Args:
        probabilities: S's, (1, C, X, Y, Z).
        protocol: The study.
        case: With its label.
    """
    assert case.label is not None
    predicted, label = probabilities.argmax(1)[0].cpu().numpy(), np.asarray(case.label)
    return fmean(
        dice(predicted == number, label == number)
        for number, organ in enumerate(protocol.organ_names, 1)
        if organ in case.annotated
    )


def label_map_on_scan(
    probabilities_xyz: NDArray[np.float32],
    protocol: StudyProtocol,
    case: CachedCase,
    scan: sitk.Image,
) -> NDArray[np.uint8]:
    """`labels_on_scan` of a cached case, as the study has it."""
    organs = protocol.in_one_piece()
    return labels_on_scan(probabilities_xyz, protocol, case.grid(), scan, in_one_piece=organs)
