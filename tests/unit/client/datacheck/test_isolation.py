"""A case that ends the process that reads it, or fails without a rule, through the real command."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import bad_cases as bad
import pytest
import yaml

from client.data.case import Case
from client.datacheck import apart

ROOT = Path(__file__).parents[4]
# Read by every process that the command starts: what a reader does with cases of these names.
FAULTS = """
import importlib.abc, importlib.util, os, signal, sys

class Faults(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "client.data.case":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            read = module.Case.read_scan
            def read_scan(case, *rest):
                patient = "Jane Doe"
                fault(case.name, patient)
                return read(case, *rest)
            module.Case.read_scan = read_scan
        spec.loader.exec_module = exec_module
        return spec

def fault(name, patient):
    if name == "aborts":
        os.abort()
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "leaves":
        os._exit(3)
    if name == "key":
        raise KeyError(patient)
    if name == "deep":
        fault(name, patient)
    if name == "large":
        raise MemoryError
    if name == "broken_disk":
        raise OSError(5, "Input/output error", "/mnt/Doe/scan.nii")

sys.meta_path.insert(0, Faults())
"""
SAID = {
    "aborts": "reading it ended the process that read it (signal 6, Aborted)",
    "killed": "was killed (signal 9), as the system does where memory runs out",
    "leaves": "reading it ended the process that read it (status 3)",
    "key": "for a reason that this program did not expect (KeyError in client/data",
    "deep": "for a reason that this program did not expect (RecursionError in client/data",
    "large": "does not fit into memory; close other programs",
    "broken_disk": "has a file that cannot be read (input/output error); look at its disk",
}
GOOD = ("a_good", "h_good", "z_good")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "A").mkdir()
    for seed, name in enumerate([*GOOD, *SAID]):
        bad.of_label(lambda image: image)(bad.Place(root=folder / "A", name=name, seed=seed))
    site = {"site": "A", "data": "A", "cache": "cache", "state": "state"}
    (folder / "A.yaml").write_text(yaml.safe_dump(site))
    (folder / "study.yaml").write_text(yaml.safe_dump({"name": "good", "organs": bad.ORGANS}))
    (folder / "code").mkdir()
    (folder / "code" / "sitecustomize.py").write_text(FAULTS)
    return folder


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "client.cli", *arguments, "--site", "A", "--configs", str(folder))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = {"PYTHONPATH": f"{folder / 'code'}:{ROOT}", "XDG_STATE_HOME": str(folder / "xdg")}
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=os.environ | found,
        check=False, capture_output=True, encoding="utf-8", cwd=ROOT, timeout=240,
    )  # fmt: skip


def test_a_case_that_ends_its_process_is_refused_and_the_others_are_read(folder: Path) -> None:
    study = ("--study", str(folder / "study.yaml"))
    done = command(folder, "check", *study, "--no-page", "--names", "--workers", "1")
    assert done.returncode == 1, done.stderr
    lines = re.findall(r"^(used|refused) +labelled +(\w+) \(case-.*?\): (.*)$", done.stdout, re.M)
    assert [name for _, name, _ in lines] == sorted([*GOOD, *SAID])
    by_name = {name: (status, line) for status, name, line in lines}
    for name in GOOD:
        assert by_name[name][0] == "used"
    for name, said in SAID.items():
        rule = "damaged" if name == "broken_disk" else "unexpected"
        assert by_name[name][0] == "refused"
        assert by_name[name][1].startswith(f"rule {rule}: case {name}")
        assert said in by_name[name][1]
    assert "Traceback" not in done.stdout + done.stderr
    assert "Doe" not in done.stdout + done.stderr
    log = folder / "state" / "unexpected.log"
    assert str(log) in by_name["key"][1]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "KeyError: 'Jane Doe'" in log.read_text(encoding="utf-8")


def test_what_is_passed_on_names_no_file(folder: Path) -> None:
    study = ("--study", str(folder / "study.yaml"))
    done = command(folder, "check", *study, "--json", "--workers", "2")
    assert done.returncode == 1
    reasons = [case["reason"] or "" for case in json.loads(done.stdout)["cases"]]
    assert len([reason for reason in reasons if reason]) == len(SAID)
    assert not [r for r in reasons if str(folder) in r or "unexpected.log" in r or "scan.nii" in r]


def test_a_simulation_names_them_too(folder: Path) -> None:
    options = ("--preset", "smoke", "--labelled", "8", "--unlabelled", "2", "--workers", "2")
    organs = ",".join(f"{organ}={value}" for organ, value in bad.ORGANS.items())
    where = ("--data", "A", "--out", "out", "--cache", "simulated")
    paths = [str(folder / word) if word[0] != "-" else word for word in where]
    done = run(folder, "simulation.cli", "run", *options, "--organs", organs, *paths)
    assert done.returncode == 2, done.stderr
    for name, said in SAID.items():
        assert re.search(rf"^error: case {name}.* {re.escape(said)}", done.stderr, re.M), name
    assert str(folder / "xdg" / "asdnet" / "unexpected.log") in done.stderr
    assert "Traceback" not in done.stderr and "Doe" not in done.stderr


def test_a_reader_that_cannot_be_started_is_told_by_its_own_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(apart._context.Process, "start", start)
    case = Case(name="a", part="labelled", image=Path("a.mha"), label=None)
    with pytest.raises(BlockingIOError, match="temporarily unavailable"):
        list(apart.reports_apart(print, [case], 1))
