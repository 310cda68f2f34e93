"""DSC and ASD of a site's cases, on the grid that each was acquired on."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asdnet_models.device import torch_device
from asdnet_models.inference.predictor import labels_on_scan
from asdnet_models.inference.sliding_window import segment_volume, trust_volume
from asdnet_models.metrics import OrganScore, score_label_maps
from asdnet_models.networks import build_confidence, build_segmenter, load_weights
from asdnet_models.reliability import BINS, LOWEST, SCORES, STEP, Reliability, TrustScore
from asdnet_models.sums import ScoreSum
from client.data.cache import CachedCase
from client.data.dataset import SiteData
from client.data.declaration import count_annotated
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport
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
    """Scores of the validation and the test cases, as sums over cases.

    An organ that is annotated in fewer cases of a part than the site's `min_cases_reported` is
    reported as empty there: the sum over one case would be that patient's value.  Given D's
    weights, its map and the softmax are held against correctness on the validation cases.
    """
    started = time.perf_counter()
    segmenter = load_segmenter(config, protocol, weights)
    confidence = None
    if confidence_weights is not None and protocol.method.trains_confidence:
        confidence = load_confidence(config, protocol, confidence_weights)
    parts: dict[str, Sequence[CaseScores]] = {}
    reliability = dict.fromkeys(SCORES, Reliability())
    for part, cases in (("validation", data.validation), ("test", data.test)):
        reported = reported_organs(cases, protocol, config.min_cases_reported)
        scores = []
        for case in cases:
            organs = case.annotated & reported
            if not organs:
                continue
            probabilities = predict_on_grid(segmenter, protocol, case)
            scores.append(only_organs(score_probabilities(probabilities, protocol, case), organs))
            if part == "validation" and confidence is not None:
                maps = trust_maps(confidence, probabilities, protocol, case)
                channels = [n for n, o in enumerate(protocol.organ_names, 1) if o in organs]
                for score, trust in maps.items():
                    reliability[score] += organ_reliability(trust, probabilities, case, channels)
        parts[part] = scores
    return EvaluationReport(
        seconds=time.perf_counter() - started,
        cases={part: len(scores) for part, scores in parts.items()},
        dsc={part: dsc_sums(protocol, scores) for part, scores in parts.items()},
        asd_mm={
            part: {
                organ: _if_enough(total, config.min_cases_reported)
                for organ, total in asd_sums(protocol, scores).items()
            }
            for part, scores in parts.items()
        },
        reliability=reliability,
    )


def reported_organs(
    cases: Sequence[CachedCase], protocol: StudyProtocol, fewest: int
) -> frozenset[str]:
    """The organs that are annotated in at least `fewest` of the cases."""
    counts = count_annotated(cases, protocol.organ_names)
    return frozenset(organ for organ, count in counts.items() if count >= fewest)


def _if_enough(total: ScoreSum, fewest: int) -> ScoreSum:
    """The sum; of fewer defined values only how often there was none for a missed organ."""
    return total if total.count >= fewest else ScoreSum(failures=total.failures)


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
    scores = score_label_maps(predicted, sitk.GetArrayFromImage(label), spacing_zyx, drawn)
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
    confidence: nn.Module, probabilities: Tensor, protocol: StudyProtocol, case: CachedCase
) -> dict[TrustScore, Tensor]:
    """M and the maximum softmax, by name, each (1, 1, X, Y, Z) on the study's grid."""
    volume = _volume(case, probabilities.device)
    trust = trust_volume(confidence, probabilities, volume, protocol)
    return {"confidence": trust, "softmax": probabilities.amax(1, keepdim=True)}


def organ_reliability(
    score: Tensor, probabilities: Tensor, case: CachedCase, organs: Sequence[int]
) -> Reliability:
    """Right and wrong voxels of what was predicted as an organ, by bin of the score's log-odds.

    Args:
        score: (1, 1, X, Y, Z), in [0, 1].
        probabilities: S's, (1, C, X, Y, Z).
        case: Whose label is the truth.
        organs: Channels of organs that are annotated in the case.  Whether a voxel that was
            predicted as another one is right, nobody knows, and it is not counted.
    """
    assert case.label is not None
    predicted = probabilities.argmax(1)[0].cpu().numpy()
    log_odds = torch.logit(score[0, 0].double(), eps=1e-6).cpu().numpy()
    number = np.clip(np.floor((log_odds - LOWEST) / STEP), 0, BINS - 1).astype(int)
    organ, right = np.isin(predicted, organs), predicted == np.asarray(case.label)

    def counts(voxels: NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(np.bincount(number[voxels], minlength=BINS).tolist())

    return Reliability(right=counts(organ & right), wrong=counts(organ & ~right))


def label_map_on_scan(
    probabilities_xyz: NDArray[np.float32],
    protocol: StudyProtocol,
    case: CachedCase,
    scan: sitk.Image,
) -> NDArray[np.uint8]:
    """`labels_on_scan` of a cached case, as the study has it."""
    largest_component = protocol.evaluation.largest_component
    return labels_on_scan(
        probabilities_xyz, protocol, case.grid(), scan, largest_component=largest_component
    )


def dsc_sums(protocol: StudyProtocol, scores: Sequence[CaseScores]) -> dict[str, ScoreSum]:
    """Sums of DSC by organ, over the cases in which it has a score."""
    return {
        organ: ScoreSum.of((score.dsc for score in _of(scores, organ)), _failures(scores, organ))
        for organ in protocol.organ_names
    }


def asd_sums(protocol: StudyProtocol, scores: Sequence[CaseScores]) -> dict[str, ScoreSum]:
    """Sums of ASD in mm by organ; undefined ones are not counted, failures are."""
    return {
        organ: ScoreSum.of((score.asd_mm for score in _of(scores, organ)), _failures(scores, organ))
        for organ in protocol.organ_names
    }


def _of(scores: Sequence[CaseScores], organ: str) -> list[OrganScore]:
    return [case.organs[organ] for case in scores if organ in case.organs]


def _failures(scores: Sequence[CaseScores], organ: str) -> int:
    return sum(score.failure for score in _of(scores, organ))
