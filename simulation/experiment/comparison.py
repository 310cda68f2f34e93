"""The models that a simulated federation is compared with, and what is said while they train."""

import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

from rich.console import Console

from protocol.config.site import SiteConfig
from protocol.wire.reports import EvaluationReport
from protocol.wording import counted
from server.monitoring.progress import clock
from server.rounds.record import StudyRecord
from simulation.experiment.options import RunOptions
from simulation.experiment.preparation import threads_of_site
from simulation.experiment.training import POOLED_SITE, train_alone, train_pooled
from simulation.layouts import StudyCase
from simulation.processes import all_results
from simulation.split import write_sites


def after_the_rounds(options: RunOptions, cases: Sequence[StudyCase]) -> str:
    """What a run goes on with, for the line that announces it; empty where there is nothing."""
    sites = {c.site for c in cases if c.part == "labelled"} - options.left_out
    models = [f"{counted(len(sites), 'own model')} of the sites"] if options.local_only else []
    models += ["a pooled model"] if options.pooled else []
    return f"; after the rounds: {' and '.join(models)}, to compare" if models else ""


def train_others(
    options: RunOptions,
    record: StudyRecord,
    configs: Mapping[str, SiteConfig],
    cases: Sequence[StudyCase],
    pool: Executor,
    console: Console,
) -> tuple[dict[str, EvaluationReport], dict[str, EvaluationReport]]:
    """Scores by site of what the federation is compared with, {} where it is not asked for.

    That is each labelled site's own model, and one model on the cases of all.
    """
    jobs: list[Future[Any]] = []
    labelled = [s for s in configs if record.facts[s].labelled] if options.local_only else []
    everything = options.out / "pooled"
    if options.pooled:  # First: it takes the longest.
        jobs.append(_submit_pooled(options, record, configs, cases, pool))
    jobs += [pool.submit(train_alone, configs[site], record.protocol) for site in labelled]
    if not jobs:
        return {}, {}
    started = time.monotonic()
    try:
        with console.status(_line(0, len(jobs), 0.0)) as status:

            def progress(done: int, total: int) -> None:
                line = _line(done, total, time.monotonic() - started)
                status.update(line)
                if not console.is_terminal:
                    console.print(line, highlight=False)

            reports = all_results(jobs, progress)
    finally:
        shutil.rmtree(everything, ignore_errors=True)
    pooled = reports.pop(0) if options.pooled else {}
    return dict(zip(labelled, reports, strict=True)), pooled


def _line(done: int, total: int, seconds: float) -> str:
    more = 0 < done < total
    rest = f"  left about {clock(seconds / done * (total - done))}" if more else ""
    return f"comparison models {done:>3}/{total}{rest}"


def _submit_pooled(
    options: RunOptions,
    record: StudyRecord,
    configs: Mapping[str, SiteConfig],
    cases: Sequence[StudyCase],
    pool: Executor,
) -> Future[dict[str, EvaluationReport]]:
    """Training on the cases of all sites, by round for the steps that these took together."""
    together = write_sites(
        [replace(case, site=POOLED_SITE) for case in cases if case.site in configs],
        options.out / "pooled",
        options.cache / "scans",
        device=options.device,
        threads=threads_of_site(options.workers),
    )
    steps = [sum(r.steps for r in item.reports.values()) for item in record.rounds]
    return pool.submit(train_pooled, together[POOLED_SITE], configs, record.protocol, steps)
