"""The study command as a user runs it: killed in the middle, resumed, asked for other things."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from client.data.files.image_io import read_image
from protocol.config.presets import preset
from protocol.model_io import load_model
from simulation.cli import app
from simulation.experiment.store import SETTINGS, read_experiment

ROOT = Path(__file__).parents[2]
FIRST = "SVNet.federated.fold1.seed1"
RUNS = {FIRST, *(f"ASDNet.{way}.fold1.seed1" for way in SETTINGS)}
EDGE = 24


def write_scan(folder: Path, name: str, seed: int, label_in: str) -> None:
    """A body in air with a bright ball (1) and a dark rod (2)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:EDGE, :EDGE, :EDGE].astype(float)
    cx, cy, cz = 11.5 + rng.uniform(-2, 2, 3)
    body = (x - 11.5) ** 2 + (y - 11.5) ** 2 < 121
    ball = (x - cx) ** 2 + (y - cy + 3) ** 2 + (z - cz) ** 2 < 16
    rod = ((x - cx) ** 2 + (y - cy - 5) ** 2 < 6) & (np.abs(z - cz) < 8)
    signal_ = 400.0 * body + 300.0 * ball - 250.0 * rod
    image = np.abs(signal_ + rng.normal(0, 12, signal_.shape)).astype(np.int16)
    label = (ball + 2 * rod).astype(np.uint8)
    for array, kind in ((image, label_in.replace("labels", "images")), (label, label_in)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        scan = sitk.GetImageFromArray(array)
        scan.SetSpacing((2.0, 2.0, 2.0))
        sitk.WriteImage(scan, str(folder / kind / f"{name}.nii.gz"))


@dataclass(frozen=True)
class Study:
    out: Path
    arguments: list[str]
    stopped: "subprocess.CompletedProcess[str]"
    left_behind: list[int]
    before: dict[str, bytes]
    resumed: "subprocess.CompletedProcess[str]"


def command(arguments: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "simulation" / "cli.py"), "tables", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"COLUMNS": "160", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    return [child for pid_ in map(int, found) for child in (pid_, *children_of(pid_))]


def alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def stop_after_first(arguments: list[str], out: Path) -> tuple[Any, list[int]]:
    process = subprocess.Popen(
        command(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
        cwd=ROOT,
        env=environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 600  # a loaded machine
    # In the middle of the second run: its draft is there.
    runs = out / "runs"
    while not ((runs / FIRST).exists() and list(runs.glob(".draft-*/new/protocol.json"))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = children_of(process.pid)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    done = subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)
    assert children
    return done, [pid for pid in children if alive(pid)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    for number in range(7):
        write_scan(folder / "data", f"case_{number}", number, "labelsTr")
    write_scan(folder / "data", "un_1", 101, "labelsUn")
    content = preset("smoke").model_dump(mode="json")
    content |= {"spacing_mm": [3, 3, 3], "patch_voxels": [16, 16, 16], "name": "tiny"}
    content["network"]["width"] = content["confidence"]["width"] = 2
    content["training"] |= {"rounds": 2, "local_steps": 2, "batch_size": 1}
    content["training"]["ramp"] = {"adversarial_start": 0, "region_start": 0, "length": 0}
    content["evaluation"]["every_rounds"] = 1
    (folder / "study.yaml").write_text(json.dumps(content))
    out = folder / "out"
    arguments = [
        "--cohort", str(folder / "data"), "--organs", "ball=1,rod=2", "--labelled", "7",
        "--unlabelled", "1", "--sites", "2", "--study", str(folder / "study.yaml"),
        "--rows", "SVNet,ASDNet", "--settings-rows", "ASDNet", "--folds", "1", "--seeds", "1",
        "--workers", "1", "--cache", str(folder / "cache"), "--device", "cpu", "--out", str(out),
    ]  # fmt: skip
    stopped, left_behind = stop_after_first(arguments, out)
    before = {path.name: path.read_bytes() for path in (out / "runs" / FIRST).glob("*.*")}
    resumed = subprocess.run(
        command(arguments), capture_output=True, encoding="utf-8", check=False, cwd=ROOT,
        env=environment(), timeout=600,
    )  # fmt: skip
    return Study(out, arguments, stopped, left_behind, before, resumed)


def test_sigterm_ends_it_cleanly(study: Study) -> None:
    assert study.stopped.returncode == 143, study.stopped.stderr
    assert study.stopped.stderr == (
        f"stopped: 1 run complete; the same command with --out {study.out} goes on\n"
    )
    assert study.left_behind == []
    assert "done.json" in study.before


def test_it_goes_on_where_it_was(study: Study) -> None:
    assert study.resumed.returncode == 0, study.resumed.stdout + study.resumed.stderr
    assert study.resumed.stderr == ""
    assert "5 runs, 1 of them complete" in study.resumed.stdout
    assert {path.name for path in (study.out / "runs").iterdir()} == RUNS
    for name, content in study.before.items():
        assert (study.out / "runs" / FIRST / name).read_bytes() == content, name
    assert f"{FIRST.split('.')[0]} federated" not in study.resumed.stdout
    # Pooled runs go side by side where there are workers for them; here there is one.
    for number, setting in enumerate(SETTINGS, 2):
        assert f"   {number}/5  ASDNet {setting}, fold 1" in study.resumed.stdout
    assert not (study.out / "failed.json").exists()


def test_the_folder_holds_what_it_says(study: Study) -> None:
    info, runs = read_experiment(study.out)
    assert (info.methods, info.folds, info.seeds) == (("SVNet", "ASDNet"), (1,), (1,))
    assert info.cohort["labelled"] == 7 and len(info.cohort["sha256"]) == 64
    by_name = {run.info.key.folder: run for run in runs}
    assert set(by_name) == RUNS
    parts = {(row.site, row.case, row.part) for row in by_name[FIRST].cases}
    for name, run in by_name.items():
        # All rows and ways are scored on the same cases.
        assert {(row.site, row.case, row.part) for row in run.cases} == parts, name
        assert {row.organ for row in run.cases} == {"ball", "rod"}
        scores = {(row.score, row.region) for row in run.confidence}
        assert bool(scores) is name.startswith("ASDNet")
        assert [row.round for row in run.rounds if row.site == run.rounds[0].site] == [1, 2]
        tested = {case for _, case, part in parts if part == "test"}
        files = {path.name for path in (run.folder / "predictions").iterdir()}
        assert files == {f"{case}.nii.gz" for case in tested}
        if run.info.key.setting != "local":
            protocol, weights, _ = load_model(run.folder / "model")
            assert weights and protocol.method.lambda_region == (
                0.3 if name.startswith("ASDNet") else 0.0
            )
    assert {part for _, _, part in parts} == {"test", "withheld"}
    # By round, as the sites reported them.
    steps = {
        setting: [
            sum(row.steps or 0 for row in by_name[f"ASDNet.{setting}.fold1.seed1"].rounds
                if row.round == number)
            for number in (1, 2)
        ]
        for setting in SETTINGS
    }  # fmt: skip
    assert steps["pooled-equal-steps"] == steps["federated"]
    assert steps["pooled"] == [2, 2] and steps["federated"] > steps["pooled"]
    cases = json.loads((study.out / "cases.json").read_text())
    assert set(cases) == {f"case_{n}" for n in range(7)} | {"un_1"}
    for name, files in cases.items():
        assert read_image(Path(files["image"]), case=name).GetSize() == (EDGE,) * 3
        assert Path(files["reference"]).exists()


@pytest.fixture
def invoke() -> Iterator[Any]:
    """The command in this process; its handlers of signals are taken back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda *arguments: CliRunner().invoke(app, ["tables", *(str(item) for item in arguments)])
    for number, handler in before.items():
        signal.signal(number, handler)


def test_other_settings_are_one_clear_error(study: Study, invoke: Any) -> None:
    before = (study.out / "study.json").read_bytes()
    done = invoke(*study.arguments, "--rounds", 3, "--steps", 7, "--folds", 2)
    assert done.exit_code == 2
    assert done.stderr.count("error:") == 1
    assert "protocol.training.rounds was 2, is 3" in done.stderr
    assert re.search(r"protocol\.training\.local_steps was \d, is 7", done.stderr)
    # A study may get more folds.
    assert "folds" not in done.stderr
    assert (study.out / "study.json").read_bytes() == before


def test_a_complete_study_trains_nothing_and_reports(study: Study, invoke: Any) -> None:
    done = invoke(*study.arguments, "--plan")
    assert done.stdout.count("done ") == 5
    assert "5 runs, 5 complete, nothing trained" in done.stdout
    done = invoke(*study.arguments, "--folds", 2, "--plan")
    assert "10 runs, 5 complete, nothing trained" in done.stdout
    done = invoke("--report-only", "--out", study.out)
    assert done.exit_code == 0, done.output
    assert "ASDNet" in done.stdout and "pooled-equal-steps" in done.stdout


def test_a_failed_run_is_noted_and_the_status_says_so(
    study: Study, invoke: Any, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    shutil.copytree(study.out, out)
    shutil.rmtree(out / "runs" / "ASDNet.pooled.fold1.seed1")
    (out / "runs" / "ASDNet.pooled.fold1.seed1").write_text("in the way")
    arguments = [str(out) if item == str(study.out) else item for item in study.arguments]
    done = invoke(*arguments)
    assert done.exit_code == 1, done.output
    failed = json.loads((out / "failed.json").read_text())
    assert list(failed) == ["ASDNet.pooled.fold1.seed1"]
    assert failed["ASDNet.pooled.fold1.seed1"]["error"] == "FileExistsError"
    assert "1 run failed" in done.stdout


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--rows", "XNet"], "--rows: must be of MALF"),
        (["--organs", "ball=one"], "--organs"),
        (["--cohort", "/nowhere"], "no such folder"),
        (["--labelled", "99"], "lower --labelled"),
        (["--training-labels", "9"], "lower --labels"),
        (["--rows", "VNet", "--sites", "1", "--rounds", "0"], "--rounds"),
    ],
)
def test_bad_arguments_are_one_clear_error(
    study: Study, invoke: Any, tmp_path: Path, extra: list[str], words: str
) -> None:
    done = invoke(*study.arguments, *extra, "--out", tmp_path / "new")
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "new").exists()


def test_a_foreign_folder_is_left_alone(study: Study, invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    done = invoke(*study.arguments, "--out", tmp_path)
    assert done.exit_code == 2
    assert "is not empty and holds no experiment" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
