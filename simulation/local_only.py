"""What a hospital has without the federation: its own model, trained for the same steps."""

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed

from asdnet_models.networks import build_confidence, build_segmenter
from client.dataset import SiteData, prepare_site
from client.evaluation import evaluate_site
from client.training import train_round
from protocol.messages import EvaluationReport, Weights, wire_weights
from protocol.schedule import plan_round
from protocol.sites import SiteConfig
from protocol.study import StudyProtocol
from protocol.sums import SumCount
from server.record import macro_validation_dsc


def train_alone(config: SiteConfig, protocol: StudyProtocol) -> EvaluationReport:
    """The same rounds at one site, without a server; scores of its best model.

    The best is chosen on the site's own validation cases, as the federation chooses on all of
    theirs; a site without any keeps its last model.
    """
    config = config.model_copy(update={"state": config.state / "alone"})
    data = prepare_site(config, protocol)
    segmenter = wire_weights(build_segmenter(protocol).state_dict())
    confidence: Weights | None = wire_weights(build_confidence(protocol).state_dict())
    best: EvaluationReport | None = None
    best_dsc = -1.0
    scale = 1.0
    for number in range(1, protocol.training.rounds + 1):
        plan = plan_round(protocol, number, attention_scale=scale, organ_box=_own_box(data))
        result = train_round(config, protocol, plan, data, segmenter, confidence)
        segmenter, confidence = result.segmenter, result.confidence or confidence
        scale = max((scale + (result.report.attention.mean or scale)) / 2, 1e-3)
        last = number == protocol.training.rounds
        if last or (data.validation and number % protocol.evaluation.every_rounds == 0):
            report = evaluate_site(config, protocol, data, segmenter)
            dsc = macro_validation_dsc({config.site: report}) or 0.0
            if dsc >= best_dsc:
                best, best_dsc = report, dsc
    assert best is not None
    return best


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


def _own_box(data: SiteData) -> tuple[float, float, float, float, float, float] | None:
    boxes = [case.organ_box for case in data.labelled if case.organ_box]
    if not boxes:
        return None
    x0, y0, z0, x1, y1, z1 = (
        SumCount(sum=sum(edge), count=len(boxes)).mean or 0.0 for edge in zip(*boxes, strict=True)
    )
    return (x0, y0, z0, x1, y1, z1)
