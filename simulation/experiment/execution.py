"""One training run, from a fold's cases to a folder with its scores: complete, or not there."""

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.files import atomic_folder, write_json
from protocol.model_io import save_model
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher
from simulation.experiment.methods import Kind
from simulation.experiment.preparation import threads_of_site
from simulation.experiment.scoring import best_model, score_model
from simulation.experiment.store import (
    CaseRow,
    ConfidenceRow,
    RoundRow,
    RunInfo,
    RunKey,
    write_rows,
)
from simulation.experiment.training import round_rows, train_in_place
from simulation.layouts import StudyCase
from simulation.split import write_sites

POOLED_SITE = "P"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run and all that a process needs for it.

    Attributes:
        protocol: The row's, with the run's seed.
        cases: With the parts of the run's fold.
        workers: Processes that a run of this kind may use at once.
        keep_predictions: Whether label maps of test cases stay.
    """

    key: RunKey
    kind: Kind
    protocol: StudyProtocol
    cases: tuple[StudyCase, ...]
    study: Path
    cache: Path
    device: str
    workers: int
    keep_predictions: bool

    @property
    def alone_on_machine(self) -> bool:
        """Federated runs and baselines spread over all workers; others run side by side."""
        return self.kind != "weights" or self.key.way == "federated"

    @property
    def folder(self) -> Path:
        """Where the run is, once it is complete."""
        return self.study / "runs" / self.key.folder


@dataclass(kw_only=True)
class _Result:
    """What a run has measured so far."""

    cases: list[CaseRow]
    confidence: list[ConfidenceRow]
    rounds: list[RoundRow]
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
    with atomic_folder(job.folder) as draft:
        write_json(draft / "protocol.json", job.protocol.model_dump(mode="json"))
        result = _train_and_score(job, draft, pool)
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


def _train_and_score(job: Job, draft: Path, pool: Executor | None) -> _Result:
    predictions = draft / "predictions" if job.keep_predictions else None
    if job.kind != "weights":
        from simulation.baselines import run_baseline

        configs = _sites(job, job.cases, draft)
        rows = run_baseline(
            job.kind,
            job.key.way,
            configs,
            job.protocol,
            job.cases,
            job.workers,
            predictions,
        )
        return _Result(cases=rows, confidence=[], rounds=[])
    way = {"federated": _federated, "pooled": _pooled, "local": _local}[job.key.way]
    return way(job, draft, predictions, pool)


def _sites(job: Job, cases: Sequence[StudyCase], draft: Path) -> dict[str, SiteConfig]:
    return write_sites(
        cases,
        draft / "sites",
        job.cache / "scans",
        device=job.device,
        threads=threads_of_site(job.workers),
    )


def _federated(job: Job, draft: Path, predictions: Path | None, pool: Executor | None) -> _Result:
    from simulation.engine import simulate

    configs = _sites(job, job.cases, draft)
    record = simulate(
        job.protocol,
        configs,
        Watcher(),
        workers=job.workers,
        gpus_per_site=float(job.device == "cuda"),
    )
    config = next(iter(configs.values()))
    return _keep_and_score(job, draft, config, record, predictions, pool)


def _pooled(job: Job, draft: Path, predictions: Path | None, pool: Executor | None) -> _Result:
    """All sites' cases in one place, which no hospital may do: the figure to compare with."""
    together = [replace(case, site=POOLED_SITE) for case in job.cases]
    config = _sites(job, together, draft)[POOLED_SITE]
    record = train_in_place(config, job.protocol, job.key.folder)
    return _keep_and_score(job, draft, config, record, predictions, pool)


def _local(job: Job, draft: Path, predictions: Path | None, pool: Executor | None) -> _Result:
    """Every site with labels by itself, scored on its own cases; a site without has no model."""
    result = _Result(cases=[], confidence=[], rounds=[])
    labelled = {case.site for case in job.cases if case.part == "labelled"}
    for site, config in _sites(job, job.cases, draft).items():
        if site not in labelled:
            continue
        record = train_in_place(config, job.protocol, job.key.folder)
        own = [case for case in job.cases if case.site == site]
        cases, trust = score_model(best_model(record, config), own, predictions, pool)
        result.cases += cases
        result.confidence += trust
        result.rounds += round_rows(record)
    return result


def _keep_and_score(
    job: Job,
    draft: Path,
    config: SiteConfig,
    record: StudyRecord,
    predictions: Path | None,
    pool: Executor | None,
) -> _Result:
    """Save the one model of all sites and score it on everyone's cases."""
    model = best_model(record, config)
    facts = {"run": job.key.folder, "round": record.best_round}
    save_model(draft / "model", job.protocol, model.segmenter, model.confidence, facts)
    cases, trust = score_model(model, job.cases, predictions, pool)
    rounds, best_round = round_rows(record), record.best_round
    return _Result(cases=cases, confidence=trust, rounds=rounds, best_round=best_round)
