"""Cables, slow sites, full disks, a tracking server that is down: the study goes on, or stops
with a reason and can be resumed."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import harness
import pytest


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Deployment]:
    study = harness.tiny_study(rounds=4, local_steps=4)
    rules = {"round_timeout_s": 90.0, "join_timeout_s": 100.0, "absence_s": 20.0, "min_sites": 2}
    study = study.model_copy(update={"aggregation": study.aggregation.model_copy(update=rules)})
    with harness.federation(tmp_path_factory.mktemp("fed"), study, "ABC") as fed:
        fed.start_superlink()
        fed.start_sites()
        yield fed


def troubled(fed: harness.Deployment) -> bool:
    """The study has ended, or the SuperLink says that it cannot write."""
    full = "full" in fed.log("superlink").lower() or "No space left" in fed.log("superlink")
    return full or fed.processes["study-full"].poll() is not None


def rounds(fed: harness.Deployment, run: str) -> list[dict[str, str]]:
    return [e["left_out"] for e in fed.events(run) if e["kind"] == "round"]


@pytest.mark.long
def test_a_site_that_is_cut_off_for_longer_than_the_deadline(fed: harness.Deployment) -> None:
    if not fed.network.separate:
        pytest.skip("pulling a cable needs network namespaces")
    fed.start_study("cable")
    fed.until_event("cable", 120, kind="called", what="train", round=2)
    fed.network.cable("B", plugged=False)
    fed.until(lambda: fed.rounds_done("cable") >= 2, 120, "the round without B")
    lost = rounds(fed, "cable")[1]
    fed.network.cable("B", plugged=True)
    assert fed.finish("cable") == 0, fed.tails()
    # The cable may have been pulled after B's answer had left.
    assert set(lost) <= {"B"}
    assert any("B" in left_out for left_out in rounds(fed, "cable"))
    assert len(rounds(fed, "cable")) == 4


@pytest.mark.long
def test_a_site_that_is_ten_times_slower_is_waited_for(fed: harness.Deployment) -> None:
    fed.until(lambda: fed.connected("C"), 10, "site C")
    with throttled(fed, "C"):
        fed.start_study("slow")
        assert fed.finish("slow") == 0, fed.tails()
    assert rounds(fed, "slow") == [{}] * 4


@contextmanager
def throttled(fed: harness.Deployment, site: str) -> Iterator[None]:
    """The site's worker gets a tenth of its time."""
    done = threading.Event()

    def pulse() -> None:
        while not done.is_set():
            workers = fed.pids("worker", site)
            for number, pause in ((signal.SIGSTOP, 0.45), (signal.SIGCONT, 0.05)):
                for pid in workers:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(pause)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.long
def test_the_centre_is_restarted(fed: harness.Deployment) -> None:
    fed.start_study("restart")
    fed.until(lambda: fed.rounds_done("restart") >= 1, 120, "round 1")
    fed.end("superlink")
    fed.start_superlink()
    # The ServerApp waits for it, and goes on; or its token has run out meanwhile.
    assert fed.carry_on("restart") == 0, fed.tails()
    assert len(rounds(fed, "restart")) == 4


def test_two_supernodes_of_one_identity(fed: harness.Deployment) -> None:
    twin = fed.home("A").parent / "twin"
    shutil.copytree(fed.home("A"), twin, ignore=shutil.ignore_patterns("cache"))
    other = fed.start_at("A", "twin", "client/cli.py", "run", "--site", "A", "--configs", twin)
    try:
        fed.until(lambda: "Trying again" in fed.log("twin"), 120, "the twin's refusal")
        assert "SuperNode ID" not in fed.log("twin")
        fed.start_study("twin")
        assert fed.finish("twin") == 0, fed.tails()
        assert rounds(fed, "twin") == [{}] * 4
    finally:
        other.kill()
        other.wait()


def test_mlflow_is_away_and_comes_back(fed: harness.Deployment) -> None:
    from mlflow import MlflowClient

    port = 9391
    uri = f"http://{fed.network.address('centre')}:{port}"
    fed.start_study("untracked", "--mlflow-uri", uri)
    assert fed.finish("untracked") == 0, fed.tails()
    assert fed.events("untracked")[-1]["unsent"] == 4
    store = f"sqlite:///{fed.folder / 'later.db'}"
    fed.start_at(
        "centre", "mlflow", "-m", "mlflow", "server", "--backend-store-uri", store,
        "--host", "0.0.0.0", "--port", port, "--allowed-hosts", "*", "--workers", "1",
        "--default-artifact-root", fed.folder / "later",
    )  # fmt: skip
    time.sleep(15)
    fed.resume("untracked")
    assert fed.finish("untracked") == 0, fed.tails()
    assert fed.events("untracked")[-1]["unsent"] == 0
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`asdnet.run` = 'untracked'")
    steps = [
        {m.step for m in client.get_metric_history(run.info.run_id, "seconds")} for run in runs
    ]
    assert steps == [{1, 2, 3, 4}] * 4, "one parent and three sites, four rounds each"


def test_the_disk_of_the_database_is_full(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("making a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    try:
        study = harness.tiny_study(rounds=4, local_steps=4)
        with harness.federation(disk, study, "AB", port=9192) as fed:
            fed.start_superlink()
            fed.start_sites()
            fed.start_study("full")
            fed.until(lambda: fed.rounds_done("full") >= 1, 120, "round 1")
            ballast = disk / "ballast"
            # Unbuffered: what is left in a buffer would be written, and refused, at the close.
            with pytest.raises(OSError, match="space"), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 65536)
            fed.until(lambda: troubled(fed), 180, "what a full disk does")
            done = fed.rounds_done("full")
            said = [line for line in fed.log("superlink").splitlines() if "full" in line.lower()]
            print("disk full:", fed.processes["study-full"].poll(), said[-1:], flush=True)
            ballast.unlink()
            study = fed.processes["study-full"]
            if study.poll() is None:
                fed.end("superlink")
                fed.start_superlink()
            else:
                fed.resume("full")
            assert fed.carry_on("full") == 0, fed.tails()
            assert fed.rounds_done("full") == 4 and done >= 1
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
