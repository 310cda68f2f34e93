"""What a hospital has without the federation: its own model, trained for the same steps."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.sums import SumCount
from client.data.dataset import SiteData, prepare_site
from client.data.declaration import drawn_boxes
from client.training.evaluation import evaluate_site
from client.training.round import train_round
from protocol.config.schedule import OrganBox, mean_box, plan_round
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.wire.messages import EvaluationReport, TrainReport
from protocol.wire.weights import Weights, wire_weights
from server.rounds.calibration import evaluation_gamma
from server.rounds.record import macro_validation_dsc


@dataclass(frozen=True, kw_only=True)
class Alone:
    """A model that was trained in one place.

    Attributes:
        report: Scores of the best model, whose weights follow.
        confidence: None where the method trains none.
        rounds: Each round's report and, where it was evaluated, the mean validation DSC.
    """

    report: EvaluationReport
    best_round: int
    segmenter: Weights
    confidence: Weights | None
    rounds: tuple[tuple[TrainReport, float | None], ...]


def train_alone(config: SiteConfig, protocol: StudyProtocol) -> EvaluationReport:
    """The same rounds at one site, without a server; scores of its best model."""
    return train_in_place(config, protocol).report


def train_in_place(config: SiteConfig, protocol: StudyProtocol, run: str = "alone") -> Alone:
    """All rounds of the study in one place, without a server.

    The best model is chosen on this place's own validation cases, as the federation chooses on
    all of its sites'; without any the last one is kept.

    Args:
        config: A site, or the one place that holds the cases of all (pooled).
        protocol: The study.
        run: Name that the optimiser states are kept by.

    Raises:
        NothingToTrainError: If the place has no labelled case and unlabelled ones rest.
        NonFiniteLossError: If training breaks down.
    """
    data = prepare_site(config, protocol)
    box = _own_box(data, protocol)
    segmenter = wire_weights(build_segmenter(protocol).state_dict())
    confidence: Weights | None = None
    if protocol.method.trains_confidence:
        confidence = wire_weights(build_confidence(protocol).state_dict())
    best: tuple[EvaluationReport, int, Weights, Weights | None] | None = None
    best_dsc, scale = -1.0, 1.0
    gamma: float | None = None
    rounds: list[tuple[TrainReport, float | None]] = []
    for number in range(1, protocol.training.rounds + 1):
        plan = plan_round(protocol, number, attention_scale=scale, organ_box=box, gamma=gamma)
        result = train_round(config, protocol, plan, data, segmenter, confidence, run=run)
        segmenter, confidence = result.segmenter, result.confidence or confidence
        scale = max((scale + (result.report.attention.mean or scale)) / 2, 1e-3)
        last = number == protocol.training.rounds
        validated = None
        if last or (data.validation and number % protocol.evaluation.every_rounds == 0):
            report = evaluate_site(config, protocol, data, segmenter, confidence)
            validated = macro_validation_dsc({config.site: report})
            found = evaluation_gamma(protocol.method, {config.site: report})
            gamma = gamma if found is None else found
            if (validated or 0.0) >= best_dsc:
                best, best_dsc = (report, number, segmenter, confidence), validated or 0.0
        rounds.append((result.report, validated))
    assert best is not None
    report, number, segmenter, confidence = best
    return Alone(
        report=report,
        best_round=number,
        segmenter=segmenter,
        confidence=confidence,
        rounds=tuple(rounds),
    )


def train_all_alone(
    configs: Mapping[str, SiteConfig],
    protocol: StudyProtocol,
    workers: int,
    progress: Callable[[str], None],
) -> dict[str, EvaluationReport]:
    """`train_alone` at every site, `workers` sites at a time; `progress` gets each site's name."""
    context = multiprocessing.get_context("spawn")
    reports: dict[str, EvaluationReport] = {}
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        jobs = {
            pool.submit(train_alone, config, protocol): site for site, config in configs.items()
        }
        for job in as_completed(jobs):
            reports[jobs[job]] = job.result()
            progress(jobs[job])
    return dict(sorted(reports.items()))


def _own_box(data: SiteData, protocol: StudyProtocol) -> OrganBox | None:
    boxes = drawn_boxes(data.labelled, protocol.organ_names)
    edges = (SumCount(sum=sum(edge), count=len(boxes)) for edge in zip(*boxes, strict=True))
    return mean_box(edges) if boxes else None
