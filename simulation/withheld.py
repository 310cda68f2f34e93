"""Scores against labels that the study alone knows; no site ever sees these labels.

Unlabelled training scans, and test scans of sites that have drawn some organs only or that are
left out of the federation.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from asdnet_models.sums import ScoreSum
from client.data.cache import cached_case
from client.data.layout import Case
from client.training.evaluation import CaseScores, asd_sums, dsc_sums, load_segmenter, score_case
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.weights import Weights
from simulation.split import StudyCase


def score_withheld(
    configs: Mapping[str, SiteConfig],
    protocol: StudyProtocol,
    weights: Weights,
    cases: Sequence[StudyCase],
    workers: int,
) -> dict[str, dict[str, dict[str, ScoreSum]]]:
    """By site: DSC and ASD sums over its unlabelled cases that have a reference."""
    withheld = [c for c in cases if c.part == "unlabelled" and c.site in configs]
    return _by_site(configs, protocol, weights, withheld, workers)


def score_by_study(
    configs: Mapping[str, SiteConfig],
    protocol: StudyProtocol,
    weights: Weights,
    cases: Sequence[StudyCase],
    workers: int,
) -> dict[str, dict[str, dict[str, ScoreSum]]]:
    """By site, of all that have cases: sums over its test cases, against every organ."""
    tests = [case for case in cases if case.part == "test"]
    return _by_site(configs, protocol, weights, tests, workers)


def _by_site(
    configs: Mapping[str, SiteConfig],
    protocol: StudyProtocol,
    weights: Weights,
    cases: Sequence[StudyCase],
    workers: int,
) -> dict[str, dict[str, dict[str, ScoreSum]]]:
    scored = [case for case in cases if case.reference is not None]
    # A site that is left out has no file; all simulated sites share device and cache.
    config = next(iter(configs.values()))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        scores = list(
            pool.map(
                _score,
                repeat(config),
                repeat(protocol),
                repeat(weights),
                scored,
            )
        )
    by_site: dict[str, list[CaseScores]] = {}
    for case, score in zip(scored, scores, strict=True):
        by_site.setdefault(case.site, []).append(score)
    return {
        site: {"dsc": dsc_sums(protocol, of_site), "asd_mm": asd_sums(protocol, of_site)}
        for site, of_site in sorted(by_site.items())
    }


def _score(
    config: SiteConfig, protocol: StudyProtocol, weights: Weights, study_case: StudyCase
) -> CaseScores:
    case = Case(
        name=study_case.name, part="test", image=study_case.image, label=study_case.reference
    )
    segmenter = load_segmenter(config, protocol, weights)
    return score_case(segmenter, protocol, cached_case(case, config.cache, protocol))
