"""A whole federation on one machine, as its users start it: a centre and hospitals, TLS, keys.

Where the machine allows it, each host is in a network namespace of its own behind a bridge, so
that a cable can be pulled; else all are on loopback.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import yaml

from benchmarks.processes import Processes, all_pids, nothing_left_running
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

ROOT = Path(__file__).resolve().parents[2]
EDGE = 24
PARTS = {
    ("imagesTr", "labelsTr"): 2,
    ("imagesUn", None): 1,
    ("imagesVal", "labelsVal"): 1,
    ("imagesTs", "labelsTs"): 1,
}


# What `asdnet-centre init` takes at most where the two test processes alone are at work.
INIT_S = 3.0
# Waits beyond their limits; only a failure makes them last so long.
PATIENCE = 4.0
DEADLINES = ("round_timeout_s", "join_timeout_s", "absence_s")
# Of sites whose updates rest on less than any real one allows.
TINY_LIMITS = {"min_cases": 1, "min_patches": 1, "min_local_steps": 1}


def tiny_study(**training: Any) -> StudyProtocol:
    """Small networks on 24-voxel phantoms; every term of the loss from round 1 on."""
    ramp = {"adversarial_start": 0.0, "region_start": 0.0, "length": 0.0}
    content = StudyProtocol().model_dump() | {
        "name": "tiny",
        "seed": 4,
        "organs": {"ball": 2, "rod": 5},
        "spacing_mm": (2.0, 2.0, 2.0),
        "patch_voxels": (16, 16, 16),
    }
    content["network"] |= {"width": 2, "kernel": 3}
    content["confidence"] |= {"width": 2}
    content["method"] |= {"class_weight": "uniform", "sample_attention": "off"}
    content["training"] |= {"rounds": 10, "local_steps": 2, "batch_size": 1, "ramp": ramp}
    content["training"] |= training
    content["aggregation"] |= {"round_timeout_s": 240.0, "join_timeout_s": 120.0}
    content["evaluation"] |= {"every_rounds": 2, "overlap": 0.25}
    return StudyProtocol.model_validate(content)


def write_phantoms(folder: Path, seed: int) -> None:
    """A bright ball (2) and a dark rod (5) in a body; every scan differs."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:EDGE, :EDGE, :EDGE].astype(float)
    for (images, labels), count in PARTS.items():
        for number in range(count):
            cx, cy, cz = 11.5 + rng.uniform(-2, 2, 3)
            body = (x - 11.5) ** 2 / 121 + (y - 11.5) ** 2 / 121 < 1
            ball = (x - cx) ** 2 + (y - cy + 3) ** 2 + (z - cz) ** 2 < 16
            rod = ((x - cx) ** 2 + (y - cy - 5) ** 2 < 6) & (np.abs(z - cz) < 8)
            signal_ = 400.0 * body + 300.0 * ball - 250.0 * rod
            image = np.abs(signal_ + rng.normal(0, 12, signal_.shape)).astype(np.int16)
            _write(folder / images / f"{images}{number}.nii.gz", image)
            if labels:
                label = np.zeros(image.shape, np.uint8)
                label[ball], label[rod] = 2, 5
                _write(folder / labels / f"{images}{number}.nii.gz", label)


def _write(path: Path, array: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteImage(image, str(path))


class Network:
    """Hosts with an address each; by namespaces, or by none of it on loopback."""

    def __init__(self, hosts: list[str]) -> None:
        self._tag = f"a{os.getpid() % 100000}"
        self._hosts = hosts
        # ASDNET_LOOPBACK=1 tries what happens where namespaces are not to be had.
        wanted = os.geteuid() == 0 and not os.environ.get("ASDNET_LOOPBACK")
        self.separate = wanted and self._ip("netns", "add", f"{self._tag}hub")
        if not self.separate:
            return
        self._ip("-n", f"{self._tag}hub", "link", "add", "br0", "type", "bridge")
        self._ip("-n", f"{self._tag}hub", "link", "set", "br0", "up")
        for number, host in enumerate(hosts):
            name, plug = self.namespace(host), f"{self._tag}p{number}"
            self._ip("netns", "add", name)
            self._ip("link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", name)
            self._ip("link", "set", plug, "netns", f"{self._tag}hub")
            self._ip("-n", f"{self._tag}hub", "link", "set", plug, "master", "br0", "up")
            self._ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            self._ip("-n", name, "link", "set", "eth0", "up")
            self._ip("-n", name, "link", "set", "lo", "up")

    def namespace(self, host: str) -> str:
        return f"{self._tag}{host}"

    def address(self, host: str) -> str:
        return f"10.77.0.{self._hosts.index(host) + 1}" if self.separate else "127.0.0.1"

    def within(self, host: str) -> list[str]:
        """What stands before a command that is to run at this host."""
        return ["ip", "netns", "exec", self.namespace(host)] if self.separate else []

    def cable(self, host: str, *, plugged: bool) -> None:
        """Pull the host's cable, or plug it in again."""
        assert self.separate, "cables need network namespaces"
        assert self._ip(
            "-n", self.namespace(host), "link", "set", "eth0", "up" if plugged else "down"
        )

    def close(self) -> None:
        if self.separate:
            for host in [*self._hosts, "hub"]:
                self._ip("netns", "del", self.namespace(host))

    def _ip(self, *arguments: str) -> bool:
        try:
            return (
                subprocess.run(["ip", *arguments], check=False, capture_output=True).returncode == 0
            )
        except FileNotFoundError:
            return False


class Deployment(Processes):
    """One centre and its hospitals; every process is started by the command that users give.

    How long its first command takes says how busy the machine is: `slow` times as busy as one that
    does nothing else.  The studies' deadlines are so many times as long, and a wait is given up
    only where something must have failed.
    """

    def __init__(
        self,
        folder: Path,
        study: StudyProtocol,
        sites: str = "ABCD",
        port: int | None = None,
        others: str = "",
    ) -> None:
        super().__init__(
            folder, {"OMP_NUM_THREADS": "1", "COLUMNS": "150", "PYTHONUNBUFFERED": "1"}
        )
        self.study, self.sites = study, sites
        # Without namespaces, federations that are tested at the same time share the addresses.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        self.port = port or 9092 + 10 * worker
        self.centre = folder / "centre"
        self.slow = 1.0
        self.network = Network(["centre", *sites, *others])

    # ---- set-up --------------------------------------------------------------------------------

    def provision(self) -> None:
        """Centre, hospitals with data and keys, each hospital admitted."""
        begun = time.monotonic()
        self.server(
            "init",
            "--host",
            self.network.address("centre"),
            "--port",
            self.port,
            "--centre",
            self.centre,
        )
        self.slow = max(1.0, (time.monotonic() - begun) / INIT_S)
        for site in self.sites:
            self.make_hospital(site)
            self.admit(site)

    def until(self, true: Callable[[], object], timeout_s: float, what: str) -> None:
        """See `Processes.until`; the limit is of a machine that does nothing else."""
        super().until(true, PATIENCE * self.slow * timeout_s, what)

    def make_hospital(self, site: str, **facts: Any) -> None:
        home = self.home(site)
        home.mkdir(parents=True)
        write_phantoms(home / "data", 1000 + ord(site))
        content = {
            "site": site, "data": "data", "cache": "cache", "state": "state", "device": "cpu",
            "threads": 1, "min_cases_reported": 1, "limits": TINY_LIMITS,
            "centre": f"{self.network.address('centre')}:{self.port}",
        }  # fmt: skip
        (home / f"{site}.yaml").write_text(yaml.safe_dump(content | facts))
        self.client("enrol", site)
        (home / "state" / "ca.pem").write_bytes((self.centre / "ca.pem").read_bytes())
        (home / "state" / "centre.pub").write_bytes((self.centre / "study.pub").read_bytes())
        # The preflight tries one step of the study that it heard of last.
        (home / "state" / "protocol.json").write_text(self.study.canonical_json())

    def admit(self, site: str) -> None:
        self.server(
            "add-site",
            site,
            "--public-key",
            self.home(site) / "state" / f"{site}.pub",
            "--centre",
            self.centre,
        )

    def home(self, site: str) -> Path:
        return self.folder / "hospitals" / site

    def site_config(self, site: str) -> SiteConfig:
        from protocol.config.site import read_site

        return read_site(self.home(site) / f"{site}.yaml")

    # ---- processes -----------------------------------------------------------------------------

    def server(self, command: str, *arguments: object, check: bool = True) -> str:
        """A command of the centre, to its end; what it printed."""
        return self._call("centre", "server/cli.py", (command, *arguments), check)

    def client(self, command: str, site: str, *arguments: object, check: bool = True) -> str:
        """A command of a hospital, to its end; what it printed."""
        given = (command, "--site", site, "--configs", self.home(site), *arguments)
        return self._call(site, "client/cli.py", given, check)

    def _call(
        self,
        host: str,
        script: str,
        arguments: tuple[object, ...],
        check: bool,
        root: Path = ROOT,
    ) -> str:
        done = subprocess.run(
            [*self.network.within(host), sys.executable, str(root / script), *map(str, arguments)],
            capture_output=True, encoding="utf-8", check=False, timeout=300 * PATIENCE * self.slow,
            env=os.environ | self.environment | {"PYTHONPATH": str(root)},
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert done.returncode == 0 or not check, f"{script} {arguments}: {output}"
        return output

    def start_superlink(self, *, wait: bool = True) -> None:
        self.start_at("centre", "superlink", "server/cli.py", "superlink", "--centre", self.centre)
        if wait:
            self.until(lambda: "Runtime HTTP API" in self.log("superlink"), 60, "a SuperLink")
            self.until(lambda: self.reaches("centre", self.port), 60, "a SuperLink that answers")

    def start_site(self, site: str, *, wait: bool = True, root: Path = ROOT) -> None:
        self.start_at(
            site,
            site,
            "client/cli.py",
            "run",
            "--site",
            site,
            "--configs",
            self.home(site),
            root=root,
        )
        if wait:
            self.until(lambda: self.connected(site), 180, f"site {site}")

    def start_sites(self) -> None:
        for site in self.sites:
            self.start_site(site, wait=False)
        self.until(lambda: all(map(self.connected, self.sites)), 300, "all sites")

    def connected(self, site: str) -> bool:
        ended = self.processes[site].poll()
        assert ended is None, f"site {site} ended with {ended}\n{self.log(site)}"
        return "SuperNode ID" in self.log(site)

    def start_study(
        self, name: str, *arguments: object, rounds: int | None = None, root: Path = ROOT
    ) -> None:
        """Prepare it, have every hospital approve it, and start it."""
        self.prepare(name, *arguments, rounds=rounds, root=root)
        self.approve(name)
        self.resume(name, root)

    def prepare(
        self, name: str, *arguments: object, rounds: int | None = None, root: Path = ROOT
    ) -> None:
        """Sign the study, or one of the same but for its number of rounds."""
        path = self.folder / f"{name}.yaml"
        training = self.study.training
        training = training.model_copy(update={"rounds": rounds or training.rounds})
        # What one learns of the machine may change; what has been signed does not.
        limits = {name: self.slow * getattr(self.study.aggregation, name) for name in DEADLINES}
        aggregation = self.study.aggregation.model_copy(update=limits)
        study = self.study.model_copy(update={"training": training, "aggregation": aggregation})
        path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
        given = ("run", "--study", path, "--name", name, "--sites", len(self.sites), "--prepare")
        self._call(
            "centre", "server/cli.py", (*given, "--centre", self.centre, *arguments), True, root
        )

    def approve(self, name: str, sites: str = "") -> None:
        """These hospitals, or all, approve the signed study, from the file that was mailed."""
        mailed = self.centre / "runs" / name / "manifest.json"
        text = json.loads(mailed.read_text(encoding="utf-8"))["manifest"]
        digest = hashlib.sha256(text.encode()).hexdigest()

        def decide(site: str) -> None:
            self.client("approve", site, "--file", mailed, "--yes", digest)

        with ThreadPoolExecutor() as pool:
            list(pool.map(decide, sites or self.sites))

    def resume(self, name: str, root: Path = ROOT) -> None:
        self.start_at(
            "centre",
            f"study-{name}",
            "server/cli.py",
            "run",
            "--resume",
            name,
            "--centre",
            self.centre,
            root=root,
        )

    def start_at(
        self, host: str, name: str, script: str, *arguments: object, root: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        """A script of a checkout (or "-m" and a module) at a host; its output is in `name`.log."""
        what = script if script == "-m" else root / script
        within = self.network.within(host)
        return self.start(name, *within, sys.executable, what, *arguments, PYTHONPATH=str(root))

    def reaches(self, host: str, port: int) -> bool:
        """Whether something listens on that port of that host's loopback."""
        probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        command = [*self.network.within(host), sys.executable, "-c", probe]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def end(self, name: str, timeout_s: float = 60) -> int:
        """SIGTERM, and wait; its exit status."""
        process = self.processes[name]
        process.terminate()
        return process.wait(PATIENCE * self.slow * timeout_s)

    def pids(self, kind: str, site: str = "") -> list[int]:
        """Processes of one kind: serverapp, superlink, supernode, worker, launcher."""
        if kind == "superlink":
            return [self.processes["superlink"].pid]
        if kind == "launcher":
            return [self.processes[site].pid]
        if kind == "serverapp":
            return [p for p in all_pids() if "flwr-serverapp" in _command(p) and self._ours(p)]
        mark = {"supernode": "client.node.supernode", "worker": "worker_process"}[kind]
        return [p for p in _descendants(self.processes[site].pid) if mark in _command(p)]

    def _ours(self, pid: int) -> bool:
        with suppress(OSError):
            return str(self.centre).encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def kill(self, kind: str, site: str = "") -> list[int]:
        """SIGKILL, as a crash or the system's memory guard does it."""
        killed = self.pids(kind, site)
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.processes.values():
            # A dead child that nobody waits for still has its number: Flower's own children look
            # whether their parent has one.
            if process.pid in killed:
                process.wait()
        return killed

    # ---- what can be seen ----------------------------------------------------------------------

    def events(self, run: str) -> list[dict[str, Any]]:
        path = self.centre / "runs" / run / "events.jsonl"
        if not path.exists():
            return []
        whole = path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def rounds_done(self, run: str) -> int:
        return max((e["round"] for e in self.events(run) if e["kind"] == "round"), default=0)

    def until_event(self, run: str, timeout_s: float, **wanted: Any) -> dict[str, Any]:
        """The first event with these values."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [
                e for e in self.events(run) if all(e.get(k) == v for k, v in wanted.items())
            ]
            return bool(found)

        self.until(there, timeout_s, str(wanted))
        return found[0]

    def finish(self, run: str, timeout_s: float = 600) -> int:
        """Wait for `asdnet-centre run`; its exit status."""
        return self.processes[f"study-{run}"].wait(PATIENCE * self.slow * timeout_s)

    def carry_on(self, run: str, timeout_s: float = 600) -> int:
        """As a supervisor would: resume what ended with 75; the last exit status."""
        status = self.finish(run, timeout_s)
        if status == 75:
            self.resume(run)
            status = self.finish(run, timeout_s)
        return status


@contextmanager
def federation(
    folder: Path,
    study: StudyProtocol,
    sites: str = "ABCD",
    port: int | None = None,
    others: str = "",
) -> Iterator[Deployment]:
    """A provisioned federation, nothing of which is left running; `others` are hosts alone."""
    deployment = Deployment(folder, study, sites, port, others)
    try:
        with nothing_left_running(), deployment:
            deployment.provision()
            yield deployment
    finally:
        deployment.network.close()


def _command(pid: int) -> str:
    with suppress(OSError):
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    return ""


def _descendants(parent: int) -> list[int]:
    def of(pid: int) -> int:
        with suppress(OSError, IndexError, ValueError):
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
            return int(stat.rpartition(")")[2].split()[1])
        return 0

    parents = {pid: of(pid) for pid in all_pids()}
    found = {parent}
    while more := {pid for pid, its in parents.items() if its in found} - found:
        found |= more
    return sorted(found - {parent})
