"""Plans a study for the simulated hospitals of a folder, as the centre does for real ones."""

import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from client.data.case import Case
from client.data.fingerprint import fingerprint_of
from client.data.folder.layout import LayoutError
from client.datacheck.apart import reports_apart
from client.datacheck.fingerprint import with_machine
from client.datacheck.inspection import Measures, inspect_case
from protocol.config.site import SiteConfig
from protocol.planning.budget import Budget
from protocol.planning.fingerprint import Fingerprint
from protocol.planning.plan import Plan, plan_study
from protocol.planning.yaml_writer import plan_yaml, write_study
from protocol.wording import counted
from simulation.cohort import find_cohort
from simulation.experiment.preparation import threads_of_site
from simulation.folds import parts_of_run, refuse_needless_folds, refuse_unscored
from simulation.layouts import StudyCase
from simulation.options import CommonOptions


def cases_of(options: CommonOptions, fold: int, console: Console) -> list[StudyCase]:
    """The cohort with the parts of a fold.

    Raises:
        SplitError, CohortError: The folder or the file of sites cannot be used.
    """
    cases, _ = find_cohort(options, console)
    refuse_needless_folds(cases, [fold], "--fold")
    parts = parts_of_run(options, cases, fold, options.protocol.seed)
    refuse_unscored(parts)
    return parts


def write_plan(plan: Plan, options: CommonOptions, path: Path, console: Console) -> None:
    """The study's file, with a reason for every planned value; what it takes, on the screen.

    Raises:
        FileExistsError: There is such a file.
    """
    for line in plan.summary:
        console.print(line, highlight=False, soft_wrap=True)
    write_study(path, plan_yaml(plan, options.protocol))
    console.print(f"study: {path}", highlight=False, soft_wrap=True)


def plan_cohort(
    cases: Sequence[StudyCase],
    budget: Budget,
    options: CommonOptions,
    console: Console,
    *,
    steps: int | None = None,
) -> Plan:
    """The study that these sites can train on this machine, a round of all of them in the minutes.

    Args:
        cases: With site and part; training cases alone are looked at.
        budget: Of the whole machine.
        options: Machine, and the study that is planned on.
        console: Where it is said what is done.
        steps: Local steps, instead of those that there is time for.

    Raises:
        LayoutError: With every fault of the training cases.
        PlanError: Nothing fits.
    """
    with console.status("reading the scans for a plan"):
        fingerprints = _fingerprints(cases, options, console)
    with console.status("planning"):
        return plan_study(fingerprints, budget, options.protocol, steps=steps)


def _note_load(console: Console) -> None:
    """A busy machine is measured slower than it is, and gets a coarser grid."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load > cores + 1:
        console.print(
            f"note: something else runs here (load {load:.1f} on {counted(cores, 'core')}), so that"
            " this machine was found slower than it is; its plan has a coarser grid or a"
            " narrower network than one made when it is quiet",
            highlight=False,
            soft_wrap=True,
        )


def _fingerprints(
    cases: Sequence[StudyCase], options: CommonOptions, console: Console
) -> dict[str, Fingerprint]:
    training = [case for case in cases if case.part in ("labelled", "unlabelled")]
    plain = [Case(name=c.name, part=c.part, image=c.image, label=c.label) for c in training]
    look = partial(inspect_case, protocol=options.protocol, shape=True)
    reports = list(reports_apart(look, plain, options.workers))
    faults = [
        f"site {case.site}: {report.problem}"
        for case, report in zip(training, reports, strict=True)
        if report.problem
    ]
    if faults:
        raise LayoutError(faults)
    by_site: dict[str, list[tuple[Case, Measures]]] = defaultdict(list)
    for dealt, case, report in zip(training, plain, reports, strict=True):
        assert report.measures is not None
        by_site[dealt.site].append((case, report.measures))
    with tempfile.TemporaryDirectory() as folder:
        configs = {site: _config(site, Path(folder), options) for site in sorted(by_site)}
        found = {
            site: fingerprint_of(config, options.protocol.organ_names, by_site[site])[0]
            for site, config in configs.items()
        }
        # One machine for all of them: it is tried once, and its time is shared.
        machine = with_machine(Fingerprint(), next(iter(configs.values())))
        _note_load(console)
    turns = -(-len(found) // min(options.workers, len(found)))
    return {
        site: fingerprint.model_copy(
            update={
                "step_seconds": machine.step_seconds * turns,
                "step_gigamacs": machine.step_gigamacs,
                "memory_gib": round(machine.memory_gib / min(options.workers, len(found)), 1),
            }
        )
        for site, fingerprint in found.items()
    }


def _config(site: str, folder: Path, options: CommonOptions) -> SiteConfig:
    """A simulated site that has never said anything, and may say all."""
    return SiteConfig(
        site=site,
        data=folder,
        cache=folder,
        state=folder,
        device=options.device,
        threads=threads_of_site(options.workers),
        min_cases_reported=1,
    )
