"""Rounds of plain Flower and of NVFLARE: the same number of weights, two sites, no training."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.processes import MeasurementError, Processes, free_port

PEERS = Path(__file__).parent / "peers"
NVFLARE_VARIABLE = "ASDNET_NVFLARE_PYTHON"
_LONGEST_S = 600.0
_CONNECTION = "here"

Shapes = Mapping[str, Sequence[int]]


def flower_simulated(folder: Path, shapes: Shapes, rounds: int) -> list[float]:
    """Seconds a round on Flower's simulation engine."""
    app = _unpacked(folder, "plain_flower", shapes)
    with Processes(folder, {}) as processes:
        script = (sys.executable, app / "same_weights.py", rounds, folder / "stamps")
        processes.call("simulation", *script, timeout_s=_LONGEST_S)
    return _between(folder / "stamps", rounds + 1)


def flower_deployed(folder: Path, shapes: Shapes, rounds: int) -> list[float]:
    """Seconds a round with a SuperLink and two SuperNodes, without TLS and keys.

    That spares it work; FedAvg, its app and its commands are as Flower has them.
    """
    app = _unpacked(folder, "plain_flower", shapes)
    binaries, port = Path(sys.executable).parent, free_port()
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink.{_CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    path = os.pathsep.join([str(binaries), os.environ["PATH"]])
    with Processes(
        folder, {"FLWR_HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1"}
    ) as processes:
        processes.start(
            "superlink", binaries / "flower-superlink", "--insecure",
            "--host", "127.0.0.1", "--port", port, "--database", folder / "state.db",
            "--disable-runtime-dependency-installation",
        )  # fmt: skip
        processes.until(lambda: "Runtime HTTP API" in processes.log("superlink"), 60, "a SuperLink")
        nodes = ("node-1", "node-2")
        for node in nodes:
            processes.start(
                node, binaries / "flower-supernode", "--insecure",
                "--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--port", free_port(),
            )  # fmt: skip
        processes.until(
            lambda: all("SuperNode ID" in processes.log(n) for n in nodes), 60, "SuperNodes"
        )
        config = f"rounds={rounds} stamps={json.dumps(str(folder / 'stamps'))}"
        processes.call(
            "run", binaries / "flwr", "run", app, _CONNECTION, "--run-config", config, timeout_s=60
        )
        stamps = folder / "stamps"
        processes.until(
            lambda: len(_times(stamps)) > rounds, _LONGEST_S, "all rounds of plain Flower"
        )
    return _between(stamps, rounds + 1)


def nvflare_python() -> Path | None:
    """The Python of an environment with NVFLARE and PyTorch, where one is named."""
    named = os.environ.get(NVFLARE_VARIABLE)
    return Path(named) if named else None


def nvflare_version(python: Path) -> str:
    """Its version, by that environment."""
    code = "from importlib.metadata import version; print(version('nvflare'))"
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        raise MeasurementError(f"{NVFLARE_VARIABLE}={python}: no nvflare there\n{done.stderr}")
    return done.stdout.strip()


def nvflare(folder: Path, shapes: Shapes, rounds: int, python: Path, kind: str) -> list[float]:
    """Seconds a round by NVFLARE's FedAvg for PyTorch, as the first client sees them.

    Args:
        folder: Where it works.
        shapes: Of the weights.
        rounds: How many.
        python: Of an environment with NVFLARE.
        kind: "sim", or "poc": a server and two clients as processes, with mutual TLS.
    """
    app = _unpacked(folder, "nvflare", shapes)
    stamps = folder / "stamps"
    # Its own settings and folders are below the home folder, and the workspace.
    environment = {"HOME": str(folder), "NVFLARE_POC_WORKSPACE": str(folder / "poc")}
    with Processes(app, environment | {"OMP_NUM_THREADS": "1"}) as processes:
        command = (python, "job.py", kind, rounds, app / "shapes.json", stamps)
        processes.call(kind, *command, free_port(), free_port(), timeout_s=_LONGEST_S)
    return _between(Path(f"{stamps}.site-1"), rounds)


def _unpacked(folder: Path, name: str, shapes: Shapes) -> Path:
    """A copy of the peer's app, with the shapes."""
    app = folder / "app"
    shutil.copytree(PEERS / name, app, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "shapes.json").write_text(json.dumps({k: list(v) for k, v in shapes.items()}))
    return app


def _times(stamps: Path) -> list[float]:
    if not stamps.exists():
        return []
    return [float(line) for line in stamps.read_text(encoding="utf-8").split()]


def _between(stamps: Path, expected: int) -> list[float]:
    times = _times(stamps)
    if len(times) != expected:
        raise MeasurementError(f"{stamps.name}: {len(times)} times are noted, {expected} expected")
    return [later - earlier for earlier, later in pairwise(times)]
