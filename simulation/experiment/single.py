"""One federated study on one machine: cohort, sites, federation, comparison, result."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from protocol.config.idle import idle_settings
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.files import write_json
from protocol.wording import counted
from reporting.terminal import print_notes
from server.monitoring.hints import hints_of, in_doubt, scored_sums
from server.monitoring.metrics import COMMIT_TAG, package_versions
from server.monitoring.progress import TerminalWatcher
from server.monitoring.provenance import own_commit
from server.monitoring.run_folder import CheckpointWatcher
from server.monitoring.tracking import MlflowWatcher
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watchers
from simulation.cohort import find_cohort
from simulation.engine import gpu_share, simulate
from simulation.errors import StudyFolderError
from simulation.experiment.comparison import after_the_rounds, train_others
from simulation.experiment.grid import fitted_protocol, median_scan, possible_methods
from simulation.experiment.methods import Method
from simulation.experiment.options import RunOptions
from simulation.experiment.preparation import check_cases, prepare_sites, threads_of_site
from simulation.experiment.scoring import (
    Model,
    Scores,
    best_model,
    score_both_ways,
    score_model,
    score_sums,
)
from simulation.experiment.single_result import Outcome, added, result_json, write_tables
from simulation.experiment.single_summary import print_summary
from simulation.experiment.store import CaseRow
from simulation.folds import parts_of_run, refuse_needless_folds, refuse_unscored
from simulation.layouts import StudyCase
from simulation.partial_labels import check_choice
from simulation.planning import plan_cohort, write_plan
from simulation.processes import spawned_pool
from simulation.split import write_sites


def run_single(options: RunOptions, console: Console) -> None:
    """One study; leaves `options.out` complete, or removed where nothing was trained yet.

    Raises:
        StudyFolderError: If the result folder is in use.
        SplitError, LayoutError, ScanError: If the data cannot be used.
        ProtocolError: If the networks do not fit the grid.
        PlanError: If nothing fits the budget.
        QuorumError: If too few sites answer; model/ and the MLflow store keep what there is.
    """
    if options.out.exists() and any(options.out.iterdir()):
        raise StudyFolderError(
            f"{options.out}: is not empty; give --out a new folder, nothing is overwritten"
        )
    cases, cohort = _cases(options, console)
    plan = None
    if options.budget is not None:
        plan = plan_cohort(cases, options.budget, options, console, steps=options.steps)
        recipe, options = options, replace(options, protocol=plan.protocol)
    methods = {options.protocol.method.name: Method()}
    protocol = fitted_protocol(options, methods, cases, options.left_out)
    possible_methods(protocol, methods)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        if plan is not None:
            write_plan(plan, recipe, options.out / "study.yaml", console)
        check_cases(cases, options.out / ".check", protocol, options, console)
        configs = write_sites(
            [case for case in cases if case.site not in options.left_out],
            options.out / "sites",
            options.cache / "scans",
            device=options.device,
            threads=threads_of_site(options.workers),
            hidden=options.hidden,
            organs=protocol.organs,
        )
        if options.hidden:
            prepare_sites(configs, protocol, options.workers, console)
    except BaseException:
        shutil.rmtree(options.out)
        raise
    _print_plan(options, protocol, cases, console)
    record = _federate(options, protocol, configs, cohort, console)
    console.print("rounds complete; scoring", highlight=False)
    with spawned_pool(options.workers) as pool:
        withheld, tested = _score(options, record, configs, cases, pool)
        alone, pooled = train_others(options, record, configs, cases, pool, console)
    outcome = Outcome(
        record=record,
        versions=package_versions(),
        cohort=cohort,
        withheld=withheld,
        local_only=alone,
        pooled=pooled,
        by_study=tested.by_study,
        failed=tested.failed,
        hints=hints_of(
            record, tested.largest_component, median_scan([case.image for case in cases])
        ),
    )
    write_tables(outcome, options.out / "tables")
    write_json(options.out / "result.json", result_json(outcome))
    print_summary(outcome, console)
    for line in (
        f"result: {options.out}",
        f"look:   mlflow ui --backend-store-uri {_store(options)}",
    ):
        console.print(line, highlight=False, soft_wrap=True)


def _cases(options: RunOptions, console: Console) -> tuple[list[StudyCase], dict[str, Any]]:
    """The cases with their sites and parts, and the cohort's entry in result.json."""
    cases, cohort = find_cohort(options, console)
    cohort |= {"fold": options.fold}
    if options.hidden:
        cohort["hidden"] = {site: sorted(names) for site, names in options.hidden.items()}
    if options.training_labels is not None:
        cohort["training_labels"] = options.training_labels
    if options.label_free:
        cohort["label_free"] = options.label_free
    if options.left_out:
        cohort["left_out"] = sorted(options.left_out)
    sites = {case.site for case in cases}
    check_choice(options.hidden, options.left_out, sites, options.protocol.organ_names)
    refuse_needless_folds(cases, [options.fold], "--fold")
    parts = parts_of_run(options, cases, options.fold, options.protocol.seed)
    refuse_unscored(parts, options.left_out)
    return parts, cohort


def _print_plan(
    options: RunOptions, protocol: StudyProtocol, cases: Sequence[StudyCase], console: Console
) -> None:
    console.print(
        f"study {protocol.name}: {counted(protocol.training.rounds, 'round')} of "
        f"{counted(protocol.training.local_steps, 'step')}, patch {protocol.patch_voxels} of "
        f"{protocol.spacing_mm} mm, seed {protocol.seed}, {counted(options.workers, 'site')} at a "
        f"time{after_the_rounds(options, cases)}",
        highlight=False,
        soft_wrap=True,
    )
    print_notes(console, idle_settings(protocol))


def _store(options: RunOptions) -> str:
    return options.mlflow_uri or f"sqlite:///{(options.out / 'mlflow.db').resolve()}"


def _federate(
    options: RunOptions,
    protocol: StudyProtocol,
    configs: Mapping[str, SiteConfig],
    cohort: Mapping[str, Any],
    console: Console,
) -> StudyRecord:
    write_json(options.out / "protocol.json", protocol.model_dump(mode="json"))
    artifacts = None if options.mlflow_uri else options.out / "mlartifacts"
    tags = {key: str(value) for key, value in cohort.items()}
    commit = {COMMIT_TAG: own_commit()}
    tracker = MlflowWatcher(_store(options), artifacts, "asdnet", tags, tags=commit)
    return simulate(
        protocol,
        configs,
        Watchers([CheckpointWatcher(options.out), tracker, TerminalWatcher(console)]),
        workers=options.workers,
        gpus_per_site=gpu_share(options.device, options.sites_per_gpu),
    )


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """What the study's own test labels say of the model; empty where they need not be asked.

    Attributes:
        by_study: Scores by site, where a site's own are not all of them.
        failed: Rows of cases that failed, where any did.
        largest_component: By organ, scores with the largest component kept, where any is misplaced.
    """

    by_study: dict[str, Scores] = field(default_factory=dict)
    failed: list[CaseRow] = field(default_factory=list)
    largest_component: Scores | None = None


def _score(
    options: RunOptions,
    record: StudyRecord,
    configs: Mapping[str, SiteConfig],
    cases: Sequence[StudyCase],
    pool: Executor,
) -> tuple[dict[str, Scores], _Tested]:
    """Scores of withheld cases by site, and what the test cases' labels add to the sites' scores.

    No site ever sees these labels.
    """
    # A site that is left out has no file; all simulated sites share device and cache.
    model = replace(best_model(record, next(iter(configs.values()))), confidence=None)
    withheld = [case for case in cases if case.part == "unlabelled" and case.site in configs]
    rows, _ = score_model(model, withheld, pool=pool)
    organs = record.protocol.organ_names
    return score_sums(rows, "withheld", organs), _test(options, model, record, cases, pool)


def _test(
    options: RunOptions,
    model: Model,
    record: StudyRecord,
    cases: Sequence[StudyCase],
    pool: Executor,
) -> _Tested:
    """Scan by scan, where sites lack labels or something is wrong: else there is nothing to add."""
    organs = record.protocol.organ_names
    own = [scored_sums(record.best_evaluation, organ)[1] for organ in organs]
    doubted = [sums for sums in own if in_doubt(sums)]
    of_study = bool(options.hidden or options.left_out)
    if not (of_study or doubted or any(sums.failures.total for sums in own)):
        return _Tested()
    rows, largest = score_both_ways(model, cases, pool)
    one_piece = added(score_sums(largest, "test", organs).values())
    return _Tested(
        by_study=score_sums(rows, "test", organs) if of_study else {},
        failed=[row for row in rows if row.failure],
        largest_component=one_piece if doubted else None,
    )
