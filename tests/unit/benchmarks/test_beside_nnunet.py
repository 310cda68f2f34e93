"""Beside nnU-Net: who is tested on, the jobs in their order, going on, scores, and the page."""

import csv
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from benchmarks import beside_nnunet, beside_nnunet_job, beside_nnunet_report, beside_nnunet_run
from benchmarks.beside_nnunet_plan import (
    DATA,
    BesideError,
    Comparison,
    DataSet,
    Job,
    memory_of,
    minutes_of,
    plan_jobs,
    plans_name,
    speed_pairs,
    split_of,
    steps_of_nnunet,
    steps_of_ours,
)
from benchmarks.processes import MeasurementError, Processes
from protocol.config.study import StudyProtocol, merged

PLAN: Mapping[str, Any] = {
    "spacing": [8.0, 1.5, 1.5],
    "patch_size": [10, 64, 64],
    "batch_size": 2,
    "architecture": {
        "arch_kwargs": {"features_per_stage": [32, 64], "strides": [[1, 1, 1], [1, 2, 2]]}
    },
}


def cohort(folder: Path, names: list[str]) -> Path:
    """Scans of two voxels with a label each."""
    for part, kind in (("imagesTr", sitk.sitkFloat32), ("labelsTr", sitk.sitkUInt8)):
        (folder / part).mkdir(parents=True)
        for name in names:
            sitk.WriteImage(sitk.Image([2, 2, 2], kind), str(folder / part / f"{name}.nii.gz"))
    return folder


def comparison(folder: Path, systems: str = "ours,nnunet", seeds: str = "1,2") -> Comparison:
    made = beside_nnunet.compared(
        folder, folder / "studies", ["cardiac"], systems, folds="1", seeds=seeds, minutes="40,10"
    )
    (folder / "studies").mkdir(exist_ok=True)
    (folder / "studies" / "cardiac.yaml").write_text("organs: {rv: 1, myo: 2, lv: 3}\n")
    return made


def finish(made: Comparison, job: Job, dsc: Mapping[str, float], **facts: object) -> None:
    """A complete job whose cases have these DSC, in both organs of one case; ASD is 10 (1 - DSC)"""
    folder = made.result(job)
    folder.mkdir(parents=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "part", "organ", "dsc", "asd_mm", "failure"])
        for case, value in dsc.items():
            for organ in ("right_ventricle", "myocardium"):
                asd = "" if value == 0 else 10 * (1 - value)
                writer.writerow([case, "test", organ, value, asd, "" if value else "missed"])
    (folder / "done.json").write_text(
        json.dumps(
            {
                **{key: getattr(job, key) for key in ("data", "fold", "seed", "minutes", "system")},
                "steps": 100 + job.seed,
                "training_cpu_seconds": 600 + job.seed,
                "prediction_seconds": 120,
                "parameters": 5_000_000,
                "versions": {"torch": "2.13.0"},
                **facts,
            }
        )
    )


def test_both_systems_get_our_folds_and_nobody_is_in_two_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATA, "small", DataSet(organs={"a": 1}, labelled=20, withheld=4))  # type: ignore[misc]
    folder = cohort(tmp_path, [f"case_{number:02d}" for number in range(24)])
    split = split_of("small", folder, 1)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [14, 2, 4]
    assert list(split.withheld) == [f"case_{number}" for number in range(20, 24)]
    names = [*split.train, *split.validation, *split.tested]
    assert len(set(names)) == len(names) == 24
    assert split_of("small", folder, 2).test.keys().isdisjoint(split.test)
    assert beside_nnunet_job.read_split(json.loads(json.dumps(split.as_json()))) == split


def test_groups_are_stratified_and_the_five_folds_test_every_case_once(tmp_path: Path) -> None:
    names = [f"{group}_{number}" for group in ("DCM", "RV") for number in range(10)]
    folder = cohort(tmp_path, names)
    tested = [list(split_of("cardiac", folder, fold).test) for fold in DATA["cardiac"].folds]
    assert sorted(name for fold in tested for name in fold) == sorted(names)
    assert all(sum(name.startswith("RV") for name in fold) == 2 for fold in tested)


def test_jobs_are_planned_so_that_what_is_there_can_be_compared_at_any_time() -> None:
    jobs = plan_jobs(["hippocampus"], {"hippocampus": (1,)}, [1, 2], [40, 10], ["ours", "nnunet"])
    assert [job.name for job in jobs[:4]] == [
        "hippocampus.fold1.10min.seed1.ours",
        "hippocampus.fold1.10min.seed1.nnunet",
        "hippocampus.fold1.40min.seed1.ours",
        "hippocampus.fold1.40min.seed1.nnunet",
    ]
    assert [job.seed for job in jobs] == [1] * 4 + [2] * 4


def test_a_memory_target_names_a_plan_of_its_own() -> None:
    assert (memory_of("nnunet"), memory_of("ours"), memory_of("nnunet-0.5GB")) == (None, None, 0.5)
    assert (plans_name("nnunet"), plans_name("nnunet-2GB")) == ("nnUNetPlans", "nnUNetPlans_2GB")
    for wrong in ("nnunet-2", "nnunet-xGB", "monai", "nnunet-0GB"):
        with pytest.raises(BesideError, match="--systems"):
            memory_of(wrong)


def test_speed_is_measured_beside_the_other_system() -> None:
    assert speed_pairs(["ours", "nnunet", "nnunet-2GB"]) == [
        ("ours", "nnunet"),
        ("ours", "nnunet-2GB"),
    ]
    assert speed_pairs(["nnunet"]) == [("nnunet", "nnunet")]


def test_steps_fill_the_time() -> None:
    assert steps_of_nnunet(10, {"seconds_a_step": 1.5}) == 400
    # 20 rounds in 600 s: 30 s each, of which 2 s beside the steps.
    speed = {"seconds_a_step": 0.5, "seconds_a_round": 2.0}
    assert steps_of_ours(10, 20, speed) == 56
    with pytest.raises(BesideError, match="plan fewer rounds"):
        steps_of_ours(1, 40, speed)


def test_our_study_is_the_supervised_row_with_the_jobs_steps(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("training: {rounds: 7, local_steps: 3}\nevaluation: {every_rounds: 2}\n")
    job = {"study": str(study), "seed": 5}
    made = beside_nnunet_job.study_of(job, None, 11)
    assert (made.training.rounds, made.training.local_steps, made.seed) == (7, 11, 5)
    assert made.evaluation.every_rounds == 7 and not made.method.trains_confidence
    assert made == merged(
        StudyProtocol(seed=5),
        {
            "training": {"rounds": 7, "local_steps": 11},
            "evaluation": {"every_rounds": 7},
            "method": {"sample_attention": "off", "lambda_adversarial": 0, "lambda_region": 0},
        },
    )


def test_what_is_complete_is_not_repeated_and_what_was_killed_is(tmp_path: Path) -> None:
    made = comparison(tmp_path)
    first, second = made.jobs[:2]
    finish(made, first, {"a": 0.9})
    (made.result(second).with_name(f".{second.name}")).mkdir()
    assert made.to_do() == list(made.jobs[1:])
    lines = beside_nnunet.listed(made)
    assert lines[0].startswith("done") and lines[1].startswith("to do")
    assert lines[-1].startswith("8 jobs, 1 done")
    # Prediction took two minutes; of the peer nothing is known.
    done = [{"data": "cardiac", "system": "ours", "prediction_seconds": 120}]
    assert (minutes_of(first, done), minutes_of(second, done)) == (12, 14)


def test_a_memory_target_that_changes_nothing_is_not_trained(tmp_path: Path) -> None:
    made = comparison(tmp_path, "nnunet,nnunet-2GB,nnunet-0.5GB", seeds="1")
    plans = {
        "nnUNetPlans": PLAN,
        "nnUNetPlans_2GB": dict(PLAN),
        "nnUNetPlans_0.5GB": PLAN | {"patch_size": [10, 32, 32]},
    }
    made.prepared(made.jobs[0]).mkdir(parents=True)
    (made.prepared(made.jobs[0]) / "plans.json").write_text(json.dumps({"plans": plans}))
    assert {job.system for job in made.to_do()} == {"nnunet", "nnunet-0.5GB"}
    assert sum("planned as nnunet" in line for line in beside_nnunet.listed(made)) == 2


def test_another_study_file_is_another_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(beside_nnunet.DATA_VARIABLE, str(tmp_path))
    cohort(tmp_path / "cardiac", ["DCM_1"])
    made = comparison(tmp_path, "ours")
    finish(made, made.jobs[0], {"a": 0.9}, study="of before")
    with pytest.raises(BesideError, match="another study file"):
        beside_nnunet.check(made)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--systems", "monai"], "--systems"),
        (["--data", "brain"], "--data"),
        (["--seeds", "one"], "--seeds"),
        (["--report"], "holds no complete job"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    import typer

    app = typer.Typer()
    app.command()(beside_nnunet.main)
    command = [str(tmp_path), "--studies", str(tmp_path), *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and message in result.output
    assert result.output.startswith("error: ") and result.output.count("\n") == 1


def test_two_jobs_run_at_a_time_and_a_failed_one_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = comparison(tmp_path, seeds="1")
    at_work: dict[int, str] = {}
    together = []

    def work(_: Comparison, job: Job, core: int, __: Processes) -> Iterator[None]:
        assert core not in at_work
        at_work[core] = job.name
        for _step in range(2):
            together.append(len(at_work))
            yield
        del at_work[core]
        if job.system == "nnunet" and job.minutes == 10:
            raise MeasurementError("broken")
        finish(made, job, {"a": 0.5})

    monkeypatch.setattr(beside_nnunet_run, "_do", work)
    monkeypatch.setattr(beside_nnunet_run, "_LOOK_EVERY_S", 0)
    with Processes(tmp_path / "logs", {}) as processes:
        failed = beside_nnunet_run.side_by_side(made, deque(made.jobs), processes)
    assert failed == ["cardiac.fold1.10min.seed1.nnunet"]
    assert max(together) == 2 and made.to_do() == [made.jobs[1]]


def test_the_label_maps_of_either_system_are_scored_on_the_scans_grid(tmp_path: Path) -> None:
    reference = np.zeros((4, 4, 4), np.uint8)
    reference[:2], reference[2] = 1, 2
    predicted = np.where(reference == 1, reference, 0).astype(np.uint8)
    for name, array in (("labels/a", reference), ("predictions/a", predicted)):
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    label = str(tmp_path / "labels" / "a.nii.gz")
    job = {
        "split": {"train": {}, "validation": {}, "test": {"a": (label, label)}, "withheld": {}},
        "predictions": str(tmp_path / "predictions"),
        "organs": {"first": 1, "second": 2},
        "scores": str(tmp_path / "cases.csv"),
    }
    beside_nnunet_job.score(job)
    with (tmp_path / "cases.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["case"], first["part"], first["organ"]) == ("a", "test", "first")
    assert (float(first["dsc"]), float(first["asd_mm"]), first["failure"]) == (1, 0, "")
    assert (float(second["dsc"]), second["asd_mm"], second["failure"]) == (0, "", "missed")
    assert float(first["nsd"]) == 1 and second["hd95_mm"] == ""


def test_the_page_pairs_cases_and_seeds_and_says_whether_the_interval_is_off_zero(
    tmp_path: Path,
) -> None:
    made = comparison(tmp_path)
    for job in made.jobs:
        # At ten minutes ours is better in every case; at forty now one, now the other.
        better = 0.1 if job.system == "ours" else 0.0
        values = {"a": 0.7 + better, "b": 0.6 + better, "c": 0.5 + better}
        if job.minutes == 40:
            values = {"a": 0.7 + better, "b": 0.75 - better, "c": 0.6}
        finish(made, job, values)
    finish(made, replace(made.jobs[0], seed=9), {"a": 0.0})  # a seed of ours alone is not paired
    page = tmp_path / "page.md"
    beside_nnunet_report.write_page(tmp_path, page)
    lines = page.read_text(encoding="utf-8").splitlines()
    gap = "| cardiac | 10 | all | nnunet | dsc | 3 | +0.100 [+0.100, +0.100] | yes, ours |"
    assert gap in lines
    assert any(
        line.startswith("| cardiac | 10 | all | nnunet | asd_mm | 3 | -1.000")
        and line.endswith("| yes, ours |")
        for line in lines
    )
    [even] = [line for line in lines if line.startswith("| cardiac | 40 | all | nnunet | dsc |")]
    assert even.endswith("| no |") and "+0.000" in even
    # Two seeds of three cases, and one of one case, which missed both organs.
    assert any(
        line.startswith("| cardiac | 10 | all | ours | 3, 3 |") and line.endswith("| 2 |")
        for line in lines
    )
    assert "| cardiac | 40 | nnunet | 2 | 101 to 102 | 10.0 (10.0 to 10.0) | 2.0 | 5,000,000 |" in (
        lines
    )


def test_a_lower_distance_and_a_higher_overlap_are_better(tmp_path: Path) -> None:
    made = comparison(tmp_path, seeds="1")
    for job in made.jobs:
        worse = 0.2 if job.system == "ours" else 0.0
        finish(made, job, {"a": 0.9 - worse, "b": 0.8 - worse})
    rows, _ = beside_nnunet_report.read_jobs(tmp_path)
    for name in ("dsc", "asd_mm"):
        gap = beside_nnunet_report.gap_of(rows[rows["minutes"] == 10], "nnunet", name, "all")
        assert beside_nnunet_report.verdict(gap, name) == "yes, peer"


def test_steps_follow_from_the_measured_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = comparison(tmp_path, seeds="1")
    measured = {"seconds_a_step": 2.0, "versions": {"torch": "2.13.0"}}

    def process(*arguments: Any, **_: object) -> Iterator[None]:
        result = Path(arguments[4]["result"])
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(measured), encoding="utf-8")
        yield

    monkeypatch.setattr(beside_nnunet_run, "_process", process)
    monkeypatch.setattr(beside_nnunet_run, "_spec", lambda *_: {})
    monkeypatch.setattr(beside_nnunet_run, "_LOOK_EVERY_S", 0)
    with Processes(tmp_path / "logs", {}) as processes:
        beside_nnunet_run.measure(made, made.jobs[0], processes, 1.0)
    for job in made.jobs[:2]:
        assert json.loads(made.speed(job).read_text())["seconds_a_step"] == 2.0
    assert beside_nnunet_run.steps_of(made, made.jobs[1]) == 300
