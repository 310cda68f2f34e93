"""One run at a time: what is trained where, and what stays on the disk."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import simulation.experiment.execution
from client.data.dataset import (
    SiteData,
    prepare_site,
)
from client.data.folder.layout import find_cases
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.model_io import load_model
from server.rounds.record import StudyRecord
from simulation.experiment.execution import Job, execute
from simulation.experiment.store import CaseRow, ConfidenceRow, RoundRow, RunInfo, RunKey, read_rows
from simulation.experiment.training import train_in_place
from simulation.experiment.worker_pool import Failure, run_jobs
from simulation.layouts import StudyCase

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(make_site: MakeSite, make_protocol: MakeProtocol, tmp_path: Path) -> MakeJob:
    """Sites A (labelled, validation, test) and B (labelled, withheld); C has no label."""
    cases = []
    for site, parts in (
        ("A", {"labelled": 2, "validation": 1, "test": 1}),
        ("B", {"labelled": 1, "unlabelled": 1}),
        ("C", {"unlabelled": 1}),
    ):
        config = make_site(site, **parts)
        spare = make_site(f"{site}2", labelled=1)
        reference = next(case.label for case in find_cases(spare.data))
        for case in find_cases(config.data):
            cases.append(
                StudyCase(
                    name=f"{site}-{case.name}",
                    image=case.image,
                    label=case.label,
                    reference=case.label or reference,
                    site=site,
                    part=case.part,
                )
            )

    def make(setting: str, row: str = "ASDNet", kind: str = "weights", **protocol: object) -> Job:
        return Job(
            key=RunKey(method=row, setting=setting, fold=1, seed=1),  # type: ignore[arg-type]
            kind=kind,  # type: ignore[arg-type]
            protocol=make_protocol(**protocol),
            cases=tuple(cases),
            experiment=tmp_path / "study",
            cache=tmp_path / "cache",
            device="cpu",
            workers=1,
            keep_predictions=True,
        )

    return make


def test_pooled_trains_on_the_cases_of_all_sites(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[SiteData] = []

    def watched(
        config: SiteConfig, protocol: StudyProtocol, run: str, steps: Sequence[int] | None
    ) -> StudyRecord:
        assert steps is None
        seen.append(prepare_site(config, protocol))
        return train_in_place(config, protocol, run, steps)

    monkeypatch.setattr(simulation.experiment.execution, "train_in_place", watched)
    job = make_job("pooled")
    execute(job)
    assert len(seen) == 1
    by_part = {c.part: {x.name for x in job.cases if x.part == c.part} for c in job.cases}
    assert {case.name for case in seen[0].labelled} == by_part["labelled"]
    assert {name[0] for name in by_part["labelled"]} == {"A", "B"}
    assert {case.name for case in seen[0].unlabelled} == by_part["unlabelled"]
    assert {case.name for case in seen[0].test} == by_part["test"]
    rounds = read_rows(job.folder / "rounds.csv", RoundRow)
    assert [(row.round, row.site, row.steps) for row in rounds] == [(1, "P", 2), (2, "P", 2)]
    assert all(row.loss_confidence and row.validation_dsc is not None for row in rounds)


def test_pooled_of_equal_steps_takes_those_of_all_sites(make_job: MakeJob) -> None:
    ramp = {"adversarial_start": 0.0, "region_start": 0.5, "length": 0.0}
    training = {"rounds": 2, "local_steps": 2, "batch_size": 1, "ramp": ramp}
    job = make_job("pooled-equal-steps", training=training)
    execute(job)
    assert job.folder.name == "ASDNet.pooled-equal-steps.fold1.seed1"
    rounds = read_rows(job.folder / "rounds.csv", RoundRow)
    # A and B have labels; C, without any, trains once region attention is on.
    assert [(row.round, row.site, row.steps) for row in rounds] == [(1, "P", 4), (2, "P", 6)]
    cases = read_rows(job.folder / "cases.csv", CaseRow)
    assert {(row.site, row.part) for row in cases} == {
        ("A", "test"), ("B", "withheld"), ("C", "withheld"),
    }  # fmt: skip
    assert (job.folder / "model").is_dir()


def test_a_pooled_run_is_complete(make_job: MakeJob) -> None:
    job = make_job("pooled")
    execute(job)
    assert {path.name for path in job.folder.iterdir()} == {
        "protocol.json", "cases.csv", "confidence.csv", "rounds.csv", "model", "predictions",
        "done.json",
    }  # fmt: skip
    assert [path.name for path in job.folder.parent.iterdir()] == [job.folder.name]
    cases = read_rows(job.folder / "cases.csv", CaseRow)
    # By their own sites, whatever place they were trained in.
    assert {(row.site, row.part) for row in cases} == {
        ("A", "test"), ("B", "withheld"), ("C", "withheld"),
    }  # fmt: skip
    assert {row.organ for row in cases} == {"ball", "rod"}
    confidence = read_rows(job.folder / "confidence.csv", ConfidenceRow)
    assert {row.site for row in confidence} == {"B", "C"}
    assert {row.score for row in confidence} == {"confidence", "softmax"}
    tested = [case.name for case in job.cases if case.part == "test"]
    assert [path.name for path in (job.folder / "predictions").iterdir()] == [
        f"{name}.nii.gz" for name in tested
    ]
    protocol, _, grader = load_model(job.folder / "model")
    assert protocol == job.protocol and grader
    done = RunInfo.model_validate_json((job.folder / "done.json").read_bytes())
    assert done.key == job.key and done.seconds > 0 and done.best_round in (1, 2)


def test_local_models_are_scored_on_their_own_cases(make_job: MakeJob) -> None:
    job = make_job("local", method={"lambda_adversarial": 0.0, "lambda_region": 0.0})
    execute(job)
    cases = read_rows(job.folder / "cases.csv", CaseRow)
    # C has no label, so no model of its own.
    assert {(row.site, row.part) for row in cases} == {("A", "test"), ("B", "withheld")}
    assert {row.site for row in read_rows(job.folder / "rounds.csv", RoundRow)} == {"A", "B"}
    assert read_rows(job.folder / "confidence.csv", ConfidenceRow) == []
    assert not (job.folder / "model").exists()


def test_a_run_that_fails_leaves_nothing(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ArithmeticError("loss is nan")

    monkeypatch.setattr(simulation.experiment.execution, "score_model", broken)
    job = make_job("pooled")
    with pytest.raises(ArithmeticError):
        execute(job)
    assert list(job.folder.parent.iterdir()) == []


def test_what_is_no_run_is_not_overwritten(make_job: MakeJob) -> None:
    job = make_job("local", method={"lambda_adversarial": 0.0, "lambda_region": 0.0})
    job.folder.parent.mkdir(parents=True)
    job.folder.write_text("in the way")
    with pytest.raises(FileExistsError):
        execute(job)
    assert job.folder.read_text() == "in the way"
    assert list(job.folder.parent.iterdir()) == [job.folder]


class Listener:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.why: list[Failure] = []

    def started(self, key: RunKey) -> None:
        self.events.append(("started", key.setting))

    def finished(self, key: RunKey) -> None:
        self.events.append(("finished", key.setting))

    def failed(self, key: RunKey, failure: Failure) -> None:
        self.events.append(("failed", key.setting))
        self.why.append(failure)


def diverging(job: Job) -> Job:
    """At a rate that no study may have: the protocol is not validated again."""
    training = job.protocol.training.model_copy(update={"lr_segmenter": 1e30})
    return replace(job, protocol=job.protocol.model_copy(update={"training": training}))


def test_a_failed_run_does_not_stop_the_others(make_job: MakeJob) -> None:
    bad = diverging(make_job("pooled"))
    good = make_job("local")
    listener = Listener()
    bad.experiment.mkdir()
    run_jobs([bad, good], 1, bad.experiment / "log.txt", listener)
    assert listener.events == [
        ("started", "pooled"), ("failed", "pooled"), ("started", "local"), ("finished", "local"),
    ]  # fmt: skip
    assert listener.why[0].error == "NonFiniteLossError"
    assert (good.folder / "done.json").exists() and not bad.folder.exists()
    assert "NonFiniteLossError" in (bad.experiment / "log.txt").read_text()
    assert multiprocessing.active_children() == []


class Killer(Listener):
    """Kills the process of the first run; as a machine without memory does."""

    def started(self, key: RunKey) -> None:
        super().started(key)
        if len(self.events) == 1:
            (child,) = multiprocessing.active_children()
            assert child.pid is not None
            os.kill(child.pid, 9)


def test_a_process_that_dies_takes_one_run_with_it(make_job: MakeJob) -> None:
    jobs = [make_job("pooled"), make_job("local")]
    jobs[0].experiment.mkdir()
    listener = Killer()
    run_jobs(jobs, 1, jobs[0].experiment / "log.txt", listener)
    assert ("failed", "pooled") in listener.events and ("finished", "local") in listener.events
    assert listener.why[0].error == "ProcessDied" and "status -9" in listener.why[0].text


def test_a_baseline_gets_the_sites_and_gives_the_rows(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = CaseRow(
        site="A", case="x", part="test", organ="ball", dsc=0.5, asd_mm=None, failure=False
    )
    calls: list[tuple[Any, ...]] = []

    def run_baseline(*arguments: Any) -> list[CaseRow]:
        calls.append(arguments)
        return [row]

    module = SimpleNamespace(run_baseline=run_baseline)
    monkeypatch.setitem(sys.modules, "simulation.experiment.baseline", module)  # type: ignore[arg-type]
    job = make_job("local", row="MALF", kind="malf")
    execute(job)
    kind, setting, configs, protocol, cases, workers, predictions = calls[0]
    assert (kind, setting, workers) == ("malf", "local", 1)
    assert list(configs) == ["A", "B", "C"]
    assert (protocol, cases) == (job.protocol, job.cases)
    assert predictions.name == "predictions"
    assert read_rows(job.folder / "cases.csv", CaseRow) == [row]
