"""This project's rounds, as its users run them: a deployment, and a simulation in one process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.processes import MeasurementError, Processes, free_port
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from server.rounds.record import RoundRecord
from tests.deployment import harness

SITES = "AB"
# A study on a loaded machine; idle, it takes a tenth.
_LONGEST_S = 600.0


def study(rounds: int) -> StudyProtocol:
    """About 4.2 M parameters in two networks; one step on one patch of the smallest size a round.

    Scores are asked for in the last round alone.
    """
    tiny = harness.tiny_study(rounds=rounds, local_steps=1)
    content = tiny.model_dump()
    content["network"] |= {"width": 19}
    content["confidence"] |= {"width": 7}
    content["evaluation"] |= {"every_rounds": rounds}
    return StudyProtocol.model_validate(content)


def deployed(folder: Path, protocol: StudyProtocol) -> Sequence[float]:
    """Overheads with a centre and two hospitals: TLS, keys, gate, audit log, MLflow in a file."""
    from server.rounds.checkpoint import load_checkpoint

    with harness.federation(folder, protocol, sites=SITES, port=free_port()) as federation:
        federation.start_superlink()
        federation.start_sites()
        federation.start_study("rounds")
        status = federation.finish("rounds", _LONGEST_S)
        record = load_checkpoint(federation.centre / "runs" / "rounds")
        if status or record is None:
            raise MeasurementError(f"the study ended with {status}\n{federation.tails()}")
        return overheads(record.rounds)


def simulated(folder: Path, protocol: StudyProtocol) -> Sequence[float]:
    """Overheads on Flower's simulation engine, both sites at the same time.

    In a process of its own: Ray takes signals for itself.
    """
    with Processes(folder, {"PYTHONPATH": str(harness.ROOT)}) as processes:
        (folder / "study.json").write_text(protocol.canonical_json())
        processes.call("simulation", sys.executable, __file__, folder, timeout_s=_LONGEST_S)
    return [float(line) for line in (folder / "overheads").read_text().split()]


def _simulate(folder: Path) -> None:
    from server.rounds.watchers import Watcher
    from simulation.engine import simulate

    protocol = StudyProtocol.model_validate_json((folder / "study.json").read_bytes())
    sites = {}
    for site in SITES:
        home = folder / site
        harness.write_phantoms(home / "data", 1000 + ord(site))
        places = {name: home / name for name in ("data", "cache", "state")}
        sites[site] = SiteConfig(site=site, device="cpu", threads=1, min_cases_reported=1, **places)
    overhead_seconds = overheads(simulate(protocol, sites, Watcher(), workers=len(sites)).rounds)
    (folder / "overheads").write_text("\n".join(f"{seconds:.3f}" for seconds in overhead_seconds))


def overheads(rounds: Sequence[RoundRecord]) -> list[float]:
    """Seconds from the end of a round to that of the next, less the slowest site's training."""
    return [
        now.finished_at - before.finished_at - max(r.seconds for r in now.reports.values())
        for before, now in pairwise(rounds)
    ]


if __name__ == "__main__":
    _simulate(Path(sys.argv[1]))
