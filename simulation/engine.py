"""Runs a study on Flower's simulation engine, with a deployment's loop and ClientApps.

`run_simulation` is deprecated in Flower 1.41 in favour of `flwr run`, which leaves a SuperLink
and a SuperExec running in the background and needs the project packed as a bundle; one process
that ends when the study ends is what a command such as `make simulate` must be.  The version is
pinned.
"""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import protocol.telemetry  # isort: skip

# Ray would hide the GPUs from an actor that asks for none; the site's file chooses its device.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from flwr.app import Context
from flwr.serverapp import Grid
from flwr.simulation import run_simulation

from client.app import build_client_app
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from reporting.unexpected import LOG, keep_log_in, log_folder, personal_folder
from server.app import build_server_app
from server.rounds.errors import QuorumError
from server.rounds.loop import new_record, run_study
from server.rounds.record import StudyRecord
from server.rounds.watchers import Watcher


def simulate(
    protocol: StudyProtocol,
    sites: Mapping[str, SiteConfig],
    watcher: Watcher,
    *,
    workers: int,
    gpus_per_site: float = 0.0,
) -> StudyRecord:
    """One study over these sites.

    Args:
        protocol: The study.
        sites: By name; each becomes one of Flower's virtual SuperNodes.
        watcher: Notified of every event.
        workers: Sites that train at the same time.
        gpus_per_site: Share of a GPU that one site takes.

    Raises:
        QuorumError: If too few sites answer.
    """
    records: list[StudyRecord] = []
    # A name of its own: no site continues with the optimiser states of an earlier study.
    run = f"{protocol.name[:48]}-{uuid.uuid4().hex[:12]}"

    def serve(grid: Grid, _: Context) -> None:
        record = new_record(protocol, run)
        records.append(run_study(grid, record, watcher, expected_sites=len(sites)))

    flower = logging.getLogger("flwr")
    level = flower.level
    flower.setLevel(logging.ERROR)
    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus_per_site}
    started = time.time()
    try:
        run_simulation(
            server_app=build_server_app(serve),
            client_app=build_client_app(
                partial(_site_of_partition, dict(sites), log_folder()), keep_log=True
            ),
            num_supernodes=len(sites),
            backend_config={
                "client_resources": resources,
                "init_args": {
                    "num_cpus": workers,
                    "logging_level": "error",
                    "log_to_driver": False,
                },
            },
        )
    except QuorumError as error:
        raise QuorumError(f"{error}{_log_since(started)}") from error
    finally:
        flower.setLevel(level)
    return records[0]


def gpu_share(device: str, sites_per_gpu: int) -> float:
    """The share of a GPU that Ray sets aside for a site; never so much that the last has none."""
    return int(10_000 / sites_per_gpu) / 10_000 if device == "cuda" else 0.0


def _site_of_partition(
    sites: Mapping[str, SiteConfig], log: Path | None, context: Context
) -> SiteConfig:
    """Flower numbers its virtual nodes; the sites are taken in the order of their names."""
    keep_log_in(log)  # of this worker, which is none of the command's own processes
    return sites[sorted(sites)[int(context.node_config["partition-id"])]]


def _log_since(started: float) -> str:
    """Where the simulated sites' log is, if they have written into it since then."""
    with suppress(OSError, RuntimeError):  # there is none, or the user has no home
        path = (log_folder() or personal_folder()).expanduser() / LOG
        if path.stat().st_mtime >= started - 1:
            return f", here {path}"
    return ""
