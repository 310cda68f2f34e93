"""One training run, from a fold's cases to a folder with its scores, written atomically."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.files import atomic_folder, write_json
from protocol.model_io import save_model
from protocol.wire.reports import SiteFacts
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher
from simulation.experiment.methods import Kind
from simulation.experiment.preparation import threads_of_site
from simulation.experiment.scoring import best_model, score_model
from simulation.experiment.store import (
    POOLED,
    CaseRow,
    ConfidenceRow,
    RoundRow,
    RunInfo,
    RunKey,
    write_rows,
)
from simulation.experiment.training import (
    POOLED_SITE,
    round_rows,
    steps_of_all,
    train_in_place,
)
from simulation.layouts import StudyCase
from simulation.split import write_sites


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run and all that a process needs for it.

    Attributes:
        protocol: The method's, with the run's seed.
        cases: With the parts of the run's fold.
        workers: Processes that a run of this kind may use at once.
        keep_predictions: Whether label maps of test cases stay.
    """

    key: RunKey
    kind: Kind
    protocol: StudyProtocol
    cases: tuple[StudyCase, ...]
    experiment: Path
    cache: Path
    device: str
    workers: int
    keep_predictions: bool

    @property
    def alone_on_machine(self) -> bool:
        """Federated runs and baselines spread over all workers; others run side by side."""
        return self.kind != "weights" or self.key.setting == "federated"

    @property
    def folder(self) -> Path:
        """Where the run is, once it is complete."""
        return self.experiment / "runs" / self.key.folder


@dataclass(kw_only=True)
class _Result:
    """What a run has measured so far."""

    cases: list[CaseRow] = field(default_factory=list)
    confidence: list[ConfidenceRow] = field(default_factory=list)
    rounds: list[RoundRow] = field(default_factory=list)
    best_round: int | None = None


def execute(job: Job, pool: Executor | None = None) -> None:
    """Train and score; the run's folder appears when it is complete.

    Args:
        job: The run.
        pool: Processes to score in; None: this one.

    Raises:
        Exception: Whatever the training raises; nothing of the run stays.
    """
    started = time.monotonic()
    # A folder without done.json: somebody wants the run again.
    if job.folder.is_dir():
        shutil.rmtree(job.folder)
    with atomic_folder(job.folder, overwrite=False) as draft:
        write_json(draft / "protocol.json", job.protocol.model_dump(mode="json"))
        predictions = draft / "predictions" if job.keep_predictions else None
        if job.kind == "weights":
            result = _train_and_score(job, draft, predictions, pool)
        else:
            result = _Result(cases=_run_baseline(job, draft, predictions))
        write_rows(draft / "cases.csv", result.cases, CaseRow)
        write_rows(draft / "confidence.csv", result.confidence, ConfidenceRow)
        write_rows(draft / "rounds.csv", result.rounds, RoundRow)
        shutil.rmtree(draft / "sites")
        info = RunInfo(
            key=job.key,
            seconds=time.monotonic() - started,
            best_round=result.best_round,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(draft / "done.json", info.model_dump(mode="json"))


def _train_and_score(
    job: Job, draft: Path, predictions: Path | None, pool: Executor | None
) -> _Result:
    result = _Result()
    for record, config, cases in _trained(job, draft):
        model = best_model(record, config)
        # Local models are as many as there are sites: none of them is kept.
        if job.key.setting != "local":
            facts = {"run": job.key.folder, "round": record.best_round}
            save_model(draft / "model", job.protocol, model.segmenter, model.confidence, facts)
            result.best_round = record.best_round
        rows, trust = score_model(model, cases, predictions, pool)
        result.cases += rows
        result.confidence += trust
        result.rounds += round_rows(record)
    return result


def _trained(
    job: Job, draft: Path
) -> Iterator[tuple[StudyRecord, SiteConfig, Sequence[StudyCase]]]:
    """What is trained in the run's setting, where it can be scored, and on which cases.

    Pooled, all sites' cases are together, which no hospital may do: the figure to compare
    with: for as many steps as one site takes, or as all of them take.  Local, every site with
    labels is by itself; one without has no model.
    """
    if job.key.setting in POOLED:
        pooled = [replace(case, site=POOLED_SITE) for case in job.cases]
        config = _sites(job, pooled, draft)[POOLED_SITE]
        steps = None if job.key.setting == "pooled" else steps_of_all(job.protocol, _facts(job))
        yield train_in_place(config, job.protocol, job.key.folder, steps), config, job.cases
        return
    configs = _sites(job, job.cases, draft)
    if job.key.setting == "federated":
        yield _federated(job, configs), next(iter(configs.values())), job.cases
        return
    for site in sorted({case.site for case in job.cases if case.part == "labelled"}):
        own = [case for case in job.cases if case.site == site]
        yield train_in_place(configs[site], job.protocol, job.key.folder), configs[site], own


def _facts(job: Job) -> list[SiteFacts]:
    """What the sites would declare, by their numbers of cases."""
    counts = Counter((case.site, case.part) for case in job.cases)
    return [
        SiteFacts(
            labelled=counts[site, "labelled"],
            unlabelled=counts[site, "unlabelled"],
            validation=counts[site, "validation"],
            test=counts[site, "test"],
        )
        for site in sorted({case.site for case in job.cases})
    ]


def _federated(job: Job, configs: Mapping[str, SiteConfig]) -> StudyRecord:
    from simulation.engine import gpu_share, simulate

    share = gpu_share(job.device, 1)
    return simulate(job.protocol, configs, Watcher(), workers=job.workers, gpus_per_site=share)


def _sites(job: Job, cases: Sequence[StudyCase], draft: Path) -> dict[str, SiteConfig]:
    return write_sites(
        cases,
        draft / "sites",
        job.cache / "scans",
        device=job.device,
        threads=threads_of_site(job.workers),
    )


def _run_baseline(job: Job, draft: Path, predictions: Path | None) -> list[CaseRow]:
    from simulation.experiment.baseline import run_baseline

    assert job.kind != "weights"
    return run_baseline(
        job.kind,
        job.key.setting,
        _sites(job, job.cases, draft),
        job.protocol,
        job.cases,
        job.workers,
        predictions,
    )
