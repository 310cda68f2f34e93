"""Scores a trained model on every case with a reference, and its confidence."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from asdnet_models.reliability import TrustScore
from asdnet_models.sums import OrganSums
from client.data.cache import (
    CachedCase,
    cached_case,
)
from client.data.case import Case
from client.data.files.image_io import (
    read_image,
    write_label_map,
)
from client.training.evaluation import (
    CaseScores,
    label_map_on_scan,
    load_confidence,
    load_segmenter,
    predict_on_grid,
    score_label_map,
    trust_maps,
)
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged
from protocol.wire.weights import Weights
from reporting.unexpected import working_on
from server.rounds.record import StudyRecord
from simulation.experiment.store import CaseRow, ConfidenceRow
from simulation.layouts import StudyCase

_BINS = 10

Part = Literal["test", "withheld"]
Scored = tuple[list[CaseRow], list[ConfidenceRow]]
Scores = Mapping[str, OrganSums]  # by organ


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is scored, and where: `config` gives device, threads and cache."""

    config: SiteConfig
    protocol: StudyProtocol
    segmenter: Weights
    confidence: Weights | None


def best_model(record: StudyRecord, config: SiteConfig) -> Model:
    """The best model of a study; the last one where no round was evaluated."""
    segmenter, confidence = record.best_segmenter, record.best_confidence
    if segmenter is None:
        segmenter, confidence = record.judged, record.confidence
    return Model(
        config=config, protocol=record.protocol, segmenter=segmenter, confidence=confidence
    )


def scored_cases(cases: Iterable[StudyCase]) -> list[StudyCase]:
    """Test cases, and unlabelled training cases whose reference only the experiment knows."""
    return [
        case for case in cases if case.reference is not None and case.part in ("test", "unlabelled")
    ]


def score_model(
    model: Model,
    cases: Sequence[StudyCase],
    predictions: Path | None = None,
    pool: Executor | None = None,
) -> Scored:
    """Scores of the cases that can be scored, by case and organ.

    Args:
        model: Weights and where to run them.
        cases: Any cases of the study.
        predictions: Folder for the label maps of test cases, (case).nii.gz; None: not kept.
        pool: Processes to score in; None: this one.

    Raises:
        ScanError: If a reference cannot be used.
    """
    if predictions is not None:
        predictions.mkdir(parents=True, exist_ok=True)
    mapped = pool.map if pool else map
    scored = list(mapped(_score_one, repeat(model), scored_cases(cases), repeat(predictions)))
    return (
        [row for rows, _ in scored for row in rows],
        [row for _, rows in scored for row in rows],
    )


def score_both_ways(
    model: Model, cases: Sequence[StudyCase], pool: Executor
) -> tuple[list[CaseRow], list[CaseRow]]:
    """Scores of test cases as the study predicts, and with the largest component alone kept."""
    tests = [case for case in scored_cases(cases) if case.part == "test"]
    both = list(pool.map(_both_ways, repeat(model), tests))
    return [row for rows, _ in both for row in rows], [row for _, rows in both for row in rows]


def _both_ways(model: Model, case: StudyCase) -> tuple[list[CaseRow], list[CaseRow]]:
    with working_on(f"case {case.name}"):
        cached, probabilities, scan = _predicted(model, case)
        one = merged(model.protocol, {"evaluation": {"largest_component": True}})

        def scored(protocol: StudyProtocol) -> list[CaseRow]:
            label = label_map_on_scan(probabilities[0].cpu().numpy(), protocol, cached, scan)
            return case_rows(case, score_label_map(label, protocol, cached, scan))

        return scored(model.protocol), scored(one)


def _predicted(model: Model, case: StudyCase) -> tuple[CachedCase, torch.Tensor, sitk.Image]:
    """A case on the study's grid, S's probabilities there, and the scan as it is."""
    files = Case(name=case.name, part="test", image=case.image, label=case.reference)
    cached = cached_case(files, model.config.cache, model.protocol)
    segmenter = load_segmenter(model.config, model.protocol, model.segmenter)
    probabilities = predict_on_grid(segmenter, model.protocol, cached)
    return cached, probabilities, read_image(case.image, case=case.name)


def score_sums(rows: Iterable[CaseRow], part: Part, organs: Collection[str]) -> dict[str, Scores]:
    """The scores of one part's cases as sums, by site.

    Args:
        rows: Of any cases.
        part: "test" or "withheld".
        organs: The study's; one that no case has a score of has a count of zero.
    """
    by_site: dict[str, list[CaseRow]] = {}
    for row in rows:
        if row.part == part:
            by_site.setdefault(row.site, []).append(row)
    return {
        site: {
            organ: OrganSums.of(row for row in of_site if row.organ == organ) for organ in organs
        }
        for site, of_site in sorted(by_site.items())
    }


def _score_one(model: Model, study_case: StudyCase, predictions: Path | None) -> Scored:
    with working_on(f"case {study_case.name}"):
        return _scores_of(model, study_case, predictions)


def _scores_of(model: Model, study_case: StudyCase, predictions: Path | None) -> Scored:
    protocol = model.protocol
    cached, probabilities, scan = _predicted(model, study_case)
    label = label_map_on_scan(probabilities[0].cpu().numpy(), protocol, cached, scan)
    scores = score_label_map(label, protocol, cached, scan)
    if predictions is not None and study_case.part == "test":
        write_label_map(label, scan, predictions / f"{study_case.name}.nii.gz")
    rows = case_rows(study_case, scores)
    if study_case.part == "test" or model.confidence is None:
        return rows, []
    return rows, _confidence_of(model, study_case, cached, probabilities)


def case_rows(case: StudyCase, scores: CaseScores) -> list[CaseRow]:
    """The scores of a test or withheld case, a row an organ."""
    return [
        CaseRow(
            site=case.site,
            case=case.name,
            part="test" if case.part == "test" else "withheld",
            organ=organ,
            **vars(score),
        )
        for organ, score in scores.organs.items()
    ]


def _confidence_of(
    model: Model, case: StudyCase, cached: CachedCase, probabilities: torch.Tensor
) -> list[ConfidenceRow]:
    """Both maps of one case on the study's grid, against where the arg-max is right."""
    assert cached.label is not None
    confidence = load_confidence(model.config, model.protocol, model.confidence or {})
    trust = trust_maps(confidence, probabilities, model.protocol, cached)
    maps = {score: voxels[0, 0].cpu().numpy() for score, voxels in trust.items()}
    predicted = probabilities.argmax(1)[0].cpu().numpy()
    return confidence_rows(case.site, case.name, maps, predicted, np.asarray(cached.label))


def confidence_rows(
    site: str,
    case: str,
    maps: Mapping[TrustScore, NDArray[np.float32]],
    predicted: NDArray[np.integer],
    reference: NDArray[np.integer],
) -> list[ConfidenceRow]:
    """How well each map separates right voxels from wrong ones, over all and over predicted organs.

    Args:
        site: The case's site.
        case: Its name.
        maps: By score, in [0, 1], of the shape of `predicted`.
        predicted: Class numbers, 0 is background.
        reference: Class numbers alike.

    Returns:
        A row for each score and region; none for organs where none was predicted.
    """
    right = predicted == reference
    regions: dict[Literal["all", "organs"], NDArray[np.bool_]] = {
        "all": np.ones_like(right),
        "organs": predicted > 0,
    }
    return [
        ConfidenceRow(
            site=site,
            case=case,
            score=score,
            region=region,
            auroc=auroc(right[inside], values[inside]),
            calibration_error=calibration_error(right[inside], values[inside]),
            accuracy=float(right[inside].mean()),
            voxels=int(inside.sum()),
        )
        for region, inside in regions.items()
        if inside.any()
        for score, values in maps.items()
    ]


def auroc(right: NDArray[np.bool_], values: NDArray[np.float32]) -> float | None:
    """Probability that a right voxel has the larger value; None where all are right, or wrong."""
    from sklearn.metrics import roc_auc_score

    if right.all() or not right.any():
        return None
    return float(roc_auc_score(right, values))


def calibration_error(right: NDArray[np.bool_], values: NDArray[np.float32]) -> float:
    """Mean |share of right voxels - mean value| over ten equal bins of the value, by voxels.

    Source: Naeini et al., AAAI 2015 (expected calibration error).
    """
    bins = np.minimum((values * _BINS).astype(int), _BINS - 1)
    excess = np.bincount(bins, right.astype(float) - values, minlength=_BINS)
    return float(np.abs(excess).sum() / right.size)
