"""The steps of an experiment: cohort, shared grid, runs, report."""

import hashlib
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from client.data.case import Part
from client.data.errors import ScanError
from client.data.hashing import content_hash
from protocol.config.idle import idle_settings
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.wording import counted
from reporting.terminal import print_notes
from simulation.cohort import find_cohort
from simulation.experiment.execution import Job
from simulation.experiment.folder import (
    begun_before,
    complete,
    locked_experiment,
    open_or_resume,
    refuse_foreign_folder,
)
from simulation.experiment.grid import fitted_protocol, possible_methods, roughly_fitted
from simulation.experiment.methods import own_methods, protocol_of
from simulation.experiment.options import ExperimentOptions
from simulation.experiment.preparation import check_cases
from simulation.experiment.progress import Progress, label, report
from simulation.experiment.store import CaseFiles, ExperimentInfo, RunKey, write_cases
from simulation.experiment.worker_pool import run_jobs
from simulation.folds import parts_of_run, refuse_needless_folds
from simulation.layouts import StudyCase

_UNREADABLE = ""
_PAPER_FORM = (
    "The tables of Nie et al. are of a private clinical cohort: no figure of another cohort "
    "confirms or refutes them."
)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """An experiment whose options fit its data.

    Attributes:
        options: With the methods that the study allows.
        protocol: On the grid of all of them.
        jobs: All runs, in order.
        parts: The cases with the parts of the first run.
    """

    options: ExperimentOptions
    protocol: StudyProtocol
    cases: Sequence[StudyCase]
    cohort: Mapping[str, Any]
    jobs: Sequence[Job]
    parts: Sequence[StudyCase]


def run_experiment(options: ExperimentOptions, console: Console) -> bool:
    """Run the experiment, or what is left of it; return whether every run is complete.

    Raises:
        StudyFolderError: If the folder holds something else, or an experiment with other options.
        ProtocolError: If a method that was named cannot be trained on the shared grid.
        SplitError, LayoutError, ScanError: If the data cannot be used.
    """
    ready = _prepared(options, console)
    options = ready.options
    with locked_experiment(options.out):
        # Files that cannot be opened have no digest; the check names them.
        if ready.cohort.get("sha256") != _UNREADABLE:
            open_or_resume(options.out, _info(ready), console)
        _check(ready, options.out / ".check", console)
        write_cases(options.out, _files(ready.cases))
        all_there = _train(ready, console)
    report(options.out, console)
    return all_there


def list_runs(options: ExperimentOptions, console: Console) -> None:
    """What would be run, and what of it is there; what is raised is as in `run_experiment`.

    Phantoms are only made by the run: there is nothing in them that could be refused.
    """
    if options.data is None:
        refuse_foreign_folder(options.out)
        options = _possible(options, roughly_fitted(options, options.methods), console)
    else:
        ready = _prepared(options, console)
        options = ready.options
        if ready.cohort.get("sha256") != _UNREADABLE:
            begun_before(options.out, _info(ready))
        with tempfile.TemporaryDirectory() as folder:
            _check(ready, Path(folder) / "check", console)
        for line in _site_counts(ready):
            console.print(line, highlight=False, soft_wrap=True)
    runs = options.runs
    done = complete(options.out, runs)
    for key in runs:
        console.print(f"{'done' if key in done else 'to do':<6} {label(key)}", highlight=False)
    total = counted(len(runs), "run")
    console.print(f"{total}, {len(done)} complete, nothing trained", highlight=False)


def _prepared(options: ExperimentOptions, console: Console) -> _Prepared:
    """The cohort, the grid, and the methods that fit them."""
    refuse_foreign_folder(options.out)
    cases, cohort = _cohort(options, console)
    refuse_needless_folds(cases, options.folds, "--folds")
    protocol = fitted_protocol(options, options.methods, cases)
    options = _possible(options, protocol, console)
    jobs = [_job(options, protocol, cases, key) for key in options.runs]
    _note_idle(jobs, console)
    return _Prepared(
        options=options,
        protocol=protocol,
        cases=cases,
        cohort=cohort,
        jobs=jobs,
        parts=parts_of_run(options, cases, options.folds[0], options.seeds[0]),
    )


def _note_idle(jobs: Sequence[Job], console: Console) -> None:
    for name, protocol in {job.key.method: job.protocol for job in jobs}.items():
        print_notes(console, (f"row {name}: {line}" for line in idle_settings(protocol)))


def _site_counts(ready: _Prepared) -> tuple[str, ...]:
    """Where labels are withheld: how many cases of each part a site has in the first run."""
    if ready.options.training_labels is None and not ready.options.label_free:
        return ()
    counts = Counter((case.site, case.part) for case in ready.parts)
    sites = [
        f"{site} " + " + ".join(str(counts[site, part]) for part in get_args(Part))
        for site in sorted({case.site for case in ready.parts})
    ]
    return (f"Cases by site ({' + '.join(get_args(Part))}): {', '.join(sites)}.",)


def _possible(
    options: ExperimentOptions, protocol: StudyProtocol, console: Console
) -> ExperimentOptions:
    """Without the methods that the study does not allow, which are said."""
    methods, left_out = possible_methods(protocol, options.methods, options.optional)
    options = replace(options, methods=methods)
    if not options.runs:
        raise ProtocolError("--settings: no row can be trained in these; add another setting")
    if left_out:
        words = "; ".join(line.removeprefix("method ").replace("\n", ", ") for line in left_out)
        console.print(f"rows left out on this study: {words}", highlight=False, soft_wrap=True)
    return options


def _check(ready: _Prepared, folder: Path, console: Console) -> None:
    """Every scan and label is read once, and cached."""
    options = ready.options
    check_cases(
        ready.parts, folder, ready.protocol, options, console, every_fold=len(options.folds) > 1
    )


def _cohort(options: ExperimentOptions, console: Console) -> tuple[list[StudyCase], dict[str, Any]]:
    cases, cohort = find_cohort(options, console)
    if options.data is not None:
        cohort |= {"name": options.data.resolve().name, "sha256": _digest(cases)}
    unlabelled = sum(case.part == "unlabelled" for case in cases)
    cohort |= {
        "labelled": len(cases) - unlabelled,
        "unlabelled": unlabelled,
        "sites": len({case.site for case in cases}),
        "training_labels": options.training_labels,
    }
    # An older experiment, which does not say it, goes on.
    if options.label_free:
        cohort["label_free"] = options.label_free
    return cases, cohort


def _digest(cases: Sequence[StudyCase]) -> str:
    """Over every scan and label map, so that a changed folder is another cohort."""
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda case: case.name):
        files = [path for path in (case.image, case.label, case.reference) if path is not None]
        try:
            hashes = [content_hash(path) for path in files]
        except (ScanError, OSError):
            return _UNREADABLE
        digest.update(" ".join([case.name, case.site, *hashes]).encode())
    return digest.hexdigest()


def _info(ready: _Prepared) -> ExperimentInfo:
    from server.monitoring.metrics import package_versions

    options, protocol = ready.options, ready.protocol
    compared = [name for name in options.methods if name in options.compared]
    return ExperimentInfo(
        command=shlex.join(["python", *sys.argv]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        cohort=dict(ready.cohort),
        organs=protocol.organ_names,
        methods=tuple(options.methods),
        settings=options.settings,
        folds=options.folds,
        seeds=options.seeds,
        own_methods=own_methods(options.methods),
        protocol=protocol.model_dump(mode="json"),
        versions=package_versions(),
        notes=(
            _PAPER_FORM,
            f"Methods trained in every setting: {', '.join(compared) or 'none'}.",
            *_site_counts(ready),
        ),
    )


def _files(cases: Sequence[StudyCase]) -> dict[str, CaseFiles]:
    """Scan and reference of each case, for the report's pictures."""
    return {
        case.name: CaseFiles(image=case.image.resolve(), reference=case.reference.resolve())
        for case in cases
        if case.reference is not None
    }


def _train(ready: _Prepared, console: Console) -> bool:
    options, protocol, jobs = ready.options, ready.protocol, ready.jobs
    runs = [job.key for job in jobs]
    done = complete(options.out, runs)
    (options.out / "runs").mkdir(exist_ok=True)
    for draft in (options.out / "runs").glob(".*"):
        shutil.rmtree(draft)
    console.print(
        f"experiment: {counted(len(options.methods), 'method')}, {counted(len(runs), 'run')}, "
        f"{len(done)} of them complete; patch {protocol.patch_voxels} of {protocol.spacing_mm} mm, "
        f"{counted(protocol.training.rounds, 'round')} of "
        f"{counted(protocol.training.local_steps, 'step')}",
        highlight=False,
    )
    with Progress(options.out, runs, done, console) as progress:
        left = [job for job in jobs if job.key not in done]
        run_jobs(left, options.workers, options.out / "log.txt", progress)
    if progress.failures:
        console.print(
            f"{counted(len(progress.failures), 'run')} failed: failed.json has the reasons, "
            f"log.txt the tracebacks; the same command with --out {options.out} tries them again",
            highlight=False,
            soft_wrap=True,
        )
    return not progress.failures


def _job(
    options: ExperimentOptions, protocol: StudyProtocol, cases: Sequence[StudyCase], key: RunKey
) -> Job:
    method = options.methods[key.method]
    return Job(
        key=key,
        kind=method.kind,
        protocol=protocol_of(method, protocol, key.seed),
        cases=tuple(parts_of_run(options, cases, key.fold, key.seed)),
        experiment=options.out.resolve(),
        cache=options.cache.resolve(),
        device=options.device,
        workers=options.workers,
        keep_predictions=key.fold == options.folds[0] and key.seed == options.seeds[0],
    )
