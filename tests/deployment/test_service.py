"""Nobody watches: the centre's service goes on after every death; weights as if nothing had been.

What systemd does at a centre and at a hospital, starting a unit again that has ended, is done here
by a thread.  The long test does harm every few moments for as many minutes as `ASDNET_SOAK_MINUTES`
says, and writes what it did to the file that `ASDNET_TABLE` names.
"""

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import harness
import pytest
import torch

from protocol.model_io import load_model
from server.rounds.watchers import Watcher
from simulation.engine import simulate

RUN = "kept"


class Supervised:
    """The processes of a federation, each started again when it has ended; as units of systemd."""

    def __init__(self, fed: harness.Deployment) -> None:
        self.fed = fed
        self._units: dict[str, Callable[[], None]] = {
            "superlink": partial(fed.start_superlink, wait=False),
            "service": self._start_service,
            **{site: partial(fed.start_site, site, wait=False) for site in fed.sites},
        }
        self._end = threading.Event()
        self._held = threading.Lock()
        self._thread = threading.Thread(target=self._supervise)

    def _start_service(self) -> None:
        self.fed.start_at(
            "centre", "service", "server/cli.py", "serve", "--centre", self.fed.centre
        )

    def _supervise(self) -> None:
        while not self._end.wait(0.5):
            with self._held:
                for name, start in self._units.items():
                    process = self.fed.processes.get(name)
                    if process is None or process.poll() is not None:
                        start()

    def __enter__(self) -> "Supervised":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def kill(self, kind: str, site: str = "") -> None:
        """SIGKILL; "service", or a kind of `Deployment.kill`."""
        if kind == "service":
            process = self.fed.processes["service"]
            process.kill()
            process.wait()
        else:
            self.fed.kill(kind, site)

    def reboot(self) -> None:
        """Every process of every host ends at once."""
        with self._held:
            for site in self.fed.sites:
                for kind in ("worker", "supernode", "launcher"):
                    self.fed.kill(kind, site)
            for kind in ("service", "serverapp", "superlink"):
                self.kill(kind)


@contextmanager
def supervised(folder: Path, sites: str, rounds: int) -> Iterator[Supervised]:
    """A federation at work on a study that everybody has approved and the service has started."""
    study = harness.tiny_study(rounds=rounds, local_steps=4)
    rules = {"round_timeout_s": 300.0, "join_timeout_s": 120.0, "min_sites": len(sites)}
    study = study.model_copy(update={"aggregation": study.aggregation.model_copy(update=rules)})
    with harness.federation(folder, study, sites) as fed, Supervised(fed) as units:
        fed.until(lambda: "keeps the studies" in fed.log("service"), 60, "the service")
        fed.until(lambda: all(fed.connected(site) for site in sites), 300, "all sites")
        fed.prepare(RUN, rounds=rounds)
        fed.approve(RUN)
        fed.server("resume", RUN, "--centre", fed.centre)
        yield units


def assert_as_undisturbed(fed: harness.Deployment, folder: Path) -> None:
    """The final weights equal those of a simulation, and every site took part in every round."""
    _, deployed, _ = load_model(fed.centre / "runs" / RUN / "model" / "final")
    sites = {
        site: fed.site_config(site).model_copy(update={"state": folder / "simulated" / site})
        for site in fed.sites
    }
    simulated = simulate(fed.study, sites, Watcher(), workers=2).segmenter
    assert all(torch.equal(deployed[name], simulated[name]) for name in simulated)


def test_the_study_goes_on_by_itself(tmp_path: Path) -> None:
    rounds = 12
    with supervised(tmp_path, "AB", rounds) as units:
        fed = units.fed

        def after(number: int) -> None:
            fed.until(lambda: fed.rounds_done(RUN) >= number, 300, f"round {number}")

        after(1)
        units.kill("serverapp")
        after(3)
        units.kill("superlink")
        after(5)
        units.kill("service")
        units.kill("serverapp")
        after(7)
        units.reboot()
        after(9)
        fed.server("pause", RUN, "--centre", fed.centre)
        fed.until(lambda: fed.events(RUN)[-1]["kind"] == "paused", 120, "a pause")
        paused_at = fed.rounds_done(RUN)
        fed.server("resume", RUN, "--centre", fed.centre)
        fed.until_event(RUN, 600, kind="finished")
        kinds = [event["kind"] for event in fed.events(RUN)]
        assert kinds.count("resumed") >= 4
        assert 9 <= paused_at <= rounds
        assert_as_undisturbed(fed, tmp_path)


@pytest.mark.long
def test_a_soak(tmp_path: Path) -> None:
    """Harm at random moments: kills, pulled cables, a full disk, reboots; nobody touches it."""
    minutes = float(os.environ.get("ASDNET_SOAK_MINUTES", "10"))
    rng = random.Random(int(os.environ.get("ASDNET_SOAK_SEED", "1")))
    rounds = max(12, round(1.5 * minutes))
    done: list[tuple[float, str, int]] = []
    with small_disk(tmp_path) as disk, supervised(disk, "ABCDE", rounds) as units:
        fed, begun = units.fed, time.monotonic()
        ends = begun + 60 * minutes
        while time.monotonic() < ends and fed.rounds_done(RUN) < rounds - 1:
            time.sleep(rng.uniform(40, 140))
            what = do_harm(units, rng)
            done.append(((time.monotonic() - begun) / 60, what, fed.rounds_done(RUN)))
            print(f"{done[-1][0]:6.1f} min  round {done[-1][2]:>3}  {what}", flush=True)
        fed.until_event(RUN, 3600, kind="finished")
        took = (time.monotonic() - begun) / 60
        print(f"finished after {took:.1f} min, {len(done)} times harmed", flush=True)
        assert_as_undisturbed(fed, tmp_path)
    if table := os.environ.get("ASDNET_TABLE"):
        rows = [f"| {at:.1f} | {what} | {number} |" for at, what, number in done]
        head = ["| minute | what was done | complete rounds |", "| --- | --- | --- |"]
        text = "\n".join([*head, *rows, "", f"finished after {took:.1f} minutes", ""])
        Path(table).write_text(text, encoding="utf-8")


def do_harm(units: Supervised, rng: random.Random) -> str:
    """One thing of those that happen in twelve weeks; what it was."""
    fed = units.fed
    site = rng.choice(fed.sites)
    kinds = ["serverapp", "superlink", "service", "reboot", "worker", "supernode", "launcher"]
    if fed.network.separate:
        kinds.append("cable")
    if os.path.ismount(fed.folder):
        kinds.append("disk")
    kind = rng.choice(kinds)
    if kind == "reboot":
        units.reboot()
        return "every process of every host ended at once"
    if kind == "cable":
        seconds = rng.uniform(5, 50)
        fed.network.cable(site, plugged=False)
        time.sleep(seconds)
        fed.network.cable(site, plugged=True)
        return f"cable of {site} pulled for {seconds:.0f} s"
    if kind in ("worker", "supernode", "launcher"):
        units.kill(kind, site)
        return f"{kind} of {site} killed"
    if kind == "disk":
        return full_disk(fed, rng.uniform(10, 40))
    units.kill(kind)
    return f"{kind} killed"


def full_disk(fed: harness.Deployment, seconds: float) -> str:
    """No room is left on the disk of all hosts, for a while."""
    ballast = fed.folder / "ballast"
    with ballast.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
            file.flush()
    time.sleep(seconds)
    ballast.unlink()
    return f"disk of all hosts full for {seconds:.0f} s"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder on a disk of its own, where root may make one; else any folder."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
    try:
        yield disk
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)
