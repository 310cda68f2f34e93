"""The steps of one simulated study, in order: cohort, sites, federation, comparison, result."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from protocol.config.presets import PresetName
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from simulation.cohort import Wanted, find_study_cases
from simulation.options import StudyFolderError as StudyFolderError
from simulation.partial_labels import Hidden, check_choice
from simulation.split import StudyCase, choose_fold, write_sites


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line decided."""

    preset: PresetName
    protocol: StudyProtocol
    fixed_grid: bool
    data: Path | None
    labelled: int | None
    unlabelled: int | None
    sites: int
    fold: int
    out: Path
    mlflow_uri: str | None
    device: str
    workers: int
    local_only: bool
    cache: Path
    hidden: Hidden = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    sites_per_gpu: int = 1


def run_pipeline(options: Options, console: Console) -> None:
    """One study; leaves `options.out` complete, or removed where nothing was trained yet.

    Raises:
        StudyFolderError: If the result folder is in use.
        SplitError, ContractError, ScanError: If the data cannot be used.
        QuorumError: If too few sites answer; model/ and the MLflow store keep what there is.
    """
    if options.out.exists() and any(options.out.iterdir()):
        raise StudyFolderError(
            f"{options.out}: is not empty; give --out a new folder, nothing is overwritten"
        )
    cases, cohort = _cases(options, console)
    sites = {case.site for case in cases}
    check_choice(options.hidden, options.left_out, sites, options.protocol.organ_names)
    members = [case for case in cases if case.site not in options.left_out]
    protocol = _on_grid(options, cases)
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        configs = write_sites(
            members,
            options.out / "sites",
            options.cache / "scans",
            device=options.device,
            threads=max(1, (os.cpu_count() or 1) // options.workers),
            hidden=options.hidden,
            organs=protocol.organs,
        )
        prepare_sites(configs, protocol, options.workers, console)
    except BaseException:
        shutil.rmtree(options.out)
        raise
    _train_and_report(options, protocol, configs, cases, cohort, console)


def _cases(options: Options, console: Console) -> tuple[list[StudyCase], dict[str, Any]]:
    """The cases with their sites and parts, and what to say of the cohort in result.json."""
    seed = options.protocol.seed
    wanted = Wanted(
        preset=options.preset,
        data=options.data,
        labelled=options.labelled,
        unlabelled=options.unlabelled,
        sites=options.sites,
        seed=seed,
        cache=options.cache,
        workers=options.workers,
    )
    cases, cohort = find_study_cases(wanted, console)
    cohort |= {"fold": options.fold}
    if options.hidden:
        cohort["hidden"] = {site: sorted(names) for site, names in options.hidden.items()}
    if options.left_out:
        cohort["left_out"] = sorted(options.left_out)
    return choose_fold(cases, options.fold, seed), cohort


def _on_grid(options: Options, cases: Sequence[StudyCase]) -> StudyProtocol:
    """The protocol with spacing and patch that fit the scans, where the preset leaves them open.

    Those of sites that are left out count too: with and without them the grid is the same.
    """
    from simulation.planning import plan_grid

    content = options.protocol.model_dump()
    # One site alone is a study too: central training.
    sites = len({case.site for case in cases} - options.left_out)
    content["aggregation"]["min_sites"] = min(content["aggregation"]["min_sites"], sites)
    if not options.fixed_grid:
        grid = plan_grid(options.preset, [case.image for case in cases])
        if grid is not None:
            content |= {"spacing_mm": grid[0], "patch_voxels": grid[1]}
    return StudyProtocol.model_validate(content)


def prepare_sites(
    configs: dict[str, SiteConfig], protocol: StudyProtocol, workers: int, console: Console
) -> None:
    """Check and cache every site's data before anything is trained.

    Raises:
        ContractError: With the mistakes of all sites.
    """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from client.data.layout import ContractError

    mistakes: list[str] = []
    context = multiprocessing.get_context("spawn")
    with (
        console.status("checking and preprocessing the scans"),
        ProcessPoolExecutor(workers, mp_context=context) as pool,
    ):
        jobs = {site: pool.submit(_mistakes, config, protocol) for site, config in configs.items()}
        try:
            for site, job in jobs.items():
                mistakes += [f"site {site}: {mistake}" for mistake in job.result()]
        except BaseException:
            # Whoever ends the command does not wait for the sites that have not begun.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if mistakes:
        raise ContractError(mistakes)


def _mistakes(config: SiteConfig, protocol: StudyProtocol) -> tuple[str, ...]:
    from client.data.dataset import prepare_site
    from client.data.layout import ContractError

    try:
        prepare_site(config, protocol)
    except ContractError as error:
        return error.mistakes
    return ()


def _train_and_report(
    options: Options,
    protocol: StudyProtocol,
    configs: dict[str, SiteConfig],
    cases: Sequence[StudyCase],
    cohort: dict[str, Any],
    console: Console,
) -> None:
    from protocol.files import write_json
    from server.monitoring.progress import TerminalWatcher
    from server.monitoring.run_folder import Keeper
    from server.monitoring.tracking import MlflowWatcher, package_versions
    from server.rounds.watchers import Watchers
    from simulation.engine import gpu_share, simulate
    from simulation.experiment.training import train_all_alone
    from simulation.results import Outcome, print_table, result_json, write_tables
    from simulation.withheld import score_by_study, score_withheld

    out = options.out
    console.print(
        f"study {protocol.name}: {protocol.training.rounds} rounds of "
        f"{protocol.training.local_steps} steps, patch {protocol.patch_voxels} of "
        f"{protocol.spacing_mm} mm, seed {protocol.seed}, {options.workers} sites at a time",
        highlight=False,
    )
    write_json(out / "protocol.json", protocol.model_dump(mode="json"))
    uri = options.mlflow_uri or f"sqlite:///{(out / 'mlflow.db').resolve()}"
    artifacts = None if options.mlflow_uri else out / "mlartifacts"
    tracker = MlflowWatcher(uri, artifacts, "asdnet", {k: str(v) for k, v in cohort.items()})
    watchers = Watchers([Keeper(out), tracker, TerminalWatcher(console)])
    share = gpu_share(options.device, options.sites_per_gpu)
    record = simulate(protocol, configs, watchers, workers=options.workers, gpus_per_site=share)
    best = record.best_segmenter or record.segmenter
    withheld = score_withheld(configs, protocol, best, cases, options.workers)
    by_study = {}
    if options.hidden or options.left_out:
        by_study = score_by_study(configs, protocol, best, cases, options.workers)
    alone = {}
    if options.local_only:
        labelled = {s: c for s, c in configs.items() if record.facts[s].labelled}
        with console.status("local-only models") as status:
            done: list[str] = []

            def progress(site: str) -> None:
                done.append(site)
                status.update(f"local-only models: {len(done)}/{len(labelled)} sites")

            alone = train_all_alone(labelled, protocol, options.workers, progress)
    outcome = Outcome(
        record=record,
        seed=protocol.seed,
        versions=package_versions(),
        cohort=cohort,
        withheld=withheld,
        local_only=alone,
        by_study=by_study,
    )
    write_tables(outcome, out / "tables")
    write_json(out / "result.json", result_json(outcome))
    print_table(outcome, console)
    console.print(f"result: {out}", highlight=False, soft_wrap=True)
    console.print(f"look:   mlflow ui --backend-store-uri {uri}", highlight=False, soft_wrap=True)
