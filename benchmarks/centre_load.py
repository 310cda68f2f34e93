"""Many light sites against one SuperLink for long: requests, memory and database must be flat.

`python benchmarks/centre_load.py --sites 20 --minutes 60 --csv FILE`.  SuperLink, TLS, keys, gate,
database and round loop are the real ones; sites are `benchmarks.light_sites`.
"""

from __future__ import annotations

import csv
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.common import ROOT
from benchmarks.processes import Processes, free_port, nothing_left_behind
from flower_compat.bundle import build_bundle
from flower_compat.control import connect
from protocol.keys import make_key, openssh_line, openssh_private
from server.admin.centre import Centre, create_centre
from server.admin.owner import read_owner_token
from server.admin.registry import public_key_pem

APP = Path(__file__).parent / "peers" / "light_rounds"
HOST = "127.0.0.1"
_START_S, _CA_DAYS = 300.0, 30
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of the centre.

    Attributes:
        sites: How many.
        down_kib: Of an instruction's weights.
        up_kib: Of a reply's.
        pause_s: Between two rounds.
    """

    sites: int
    down_kib: int
    up_kib: int
    pause_s: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One line of the table; rates and medians are of the time since the line before."""

    minutes: float
    rounds: int
    round_s: float
    unanswered: int
    site_requests_per_s: float
    superlink_cpu_percent: float
    superlink_rss_mib: float
    superlink_peak_mib: float
    database_mib: float
    journal_mib: float
    database_rows: int


class Watch:
    """Looks at the SuperLink, its database and what the others write down.

    Args:
        pid: Of the SuperLink.
        centre: Its folder.
        folder: Of the files that the sites and the ServerApp write.
    """

    def __init__(self, pid: int, centre: Centre, folder: Path) -> None:
        self._pid, self._centre, self._folder = pid, centre, folder
        self._started = self._at = time.monotonic()
        self._cpu_s, self._requests, self._rounds = self._now()

    def _now(self) -> tuple[float, int, list[tuple[float, int, int]]]:
        stat = _text(Path(f"/proc/{self._pid}/stat")).rpartition(")")[2].split()
        cpu_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
        rounds = [line.split() for line in _text(self._folder / "rounds").splitlines()]
        taken = [(float(s), int(answers), int(asked)) for s, answers, asked in rounds]
        return cpu_s, int(_text(self._folder / "requests") or 0), taken

    def sample(self) -> Sample:
        """Everything since the last one."""
        cpu_s, requests, rounds = self._now()
        now = time.monotonic()
        new, passed = rounds[len(self._rounds) :], now - self._at
        database = self._centre.database
        sample = Sample(
            minutes=round((now - self._started) / 60, 2),
            rounds=len(rounds),
            round_s=round(median(s for s, _, _ in new), 3) if new else float("nan"),
            unanswered=sum(asked - answers for _, answers, asked in new),
            site_requests_per_s=round((requests - self._requests) / passed, 1),
            superlink_cpu_percent=round(100 * (cpu_s - self._cpu_s) / passed, 1),
            superlink_rss_mib=round(self._status_mib("VmRSS"), 1),
            superlink_peak_mib=round(self._status_mib("VmHWM"), 1),
            database_mib=round(_size(database) / _MIB, 2),
            journal_mib=round(_size(Path(f"{database}-wal")) / _MIB, 2),
            database_rows=sum(count_rows(database).values()),
        )
        self._at, self._cpu_s, self._requests, self._rounds = now, cpu_s, requests, rounds
        return sample

    def _status_mib(self, key: str) -> float:
        lines = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def count_rows(database: Path) -> dict[str, int]:
    """Rows of each table that has any."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as link:
        tables = [t for (t,) in link.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        counts = {t: link.execute(f'SELECT count(*) FROM "{t}"').fetchone()[0] for t in tables}
    return {table: count for table, count in counts.items() if count}


@contextmanager
def centre_with_sites(folder: Path, load: Load) -> Iterator[tuple[Watch, Centre]]:
    """A SuperLink, its light sites and a run of light rounds; all end with the context."""
    centre = Centre(folder=folder / "centre", hosts=(HOST,), port=free_port())
    create_centre(centre, ca_days=_CA_DAYS, now=datetime.now(UTC))
    with Processes(folder, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}) as processes:
        command = (ROOT / "server" / "cli.py", "superlink", "--centre", centre.folder)
        superlink = processes.start(
            "superlink", sys.executable, *command, "--connections", load.sites * 4 + 64
        )
        processes.until(
            lambda: "Runtime HTTP API" in processes.log("superlink"), _START_S, "a SuperLink"
        )
        with connect(centre.port, centre.ca_file, read_owner_token(centre)) as control:
            for number in range(load.sites):
                key, path = make_key(), folder / "keys" / f"{number:04d}.key"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(openssh_private(key))
                path.chmod(0o600)
                control.register(f"S{number}", public_key_pem(openssh_line(key.public_key())))
            sites = (f"{HOST}:{centre.port}", centre.ca_file, folder / "keys", load.up_kib)
            processes.start(
                "sites", sys.executable, "-m", "benchmarks.light_sites", *sites, folder / "requests"
            )
            given: dict[str, object] = {"sites": load.sites, "kib": load.down_kib}
            given |= {"pause": load.pause_s, "rounds": folder / "rounds"}
            control.start_run(build_bundle(APP), {k: str(v) for k, v in given.items()})
        processes.until(lambda: _text(folder / "rounds"), _START_S, "a first round")
        yield Watch(superlink.pid, centre, folder), centre


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def main(
    sites: Annotated[int, typer.Option(min=1, help="light sites, a thread each")] = 20,
    minutes: Annotated[float, typer.Option(help="how long")] = 60.0,
    every_s: Annotated[float, typer.Option(help="seconds between two lines of the table")] = 180.0,
    down_kib: Annotated[int, typer.Option(help="weights of an instruction, KiB")] = 256,
    up_kib: Annotated[int, typer.Option(help="weights of a reply, KiB")] = 64,
    pause_s: Annotated[float, typer.Option(help="between two rounds")] = 5.0,
    table: Annotated[Path, typer.Option("--csv", help="the table")] = Path("centre-load.csv"),
) -> None:
    """Load one SuperLink with many light sites, and write down what it takes."""
    load = Load(sites=sites, down_kib=down_kib, up_kib=up_kib, pause_s=pause_s)
    with (
        nothing_left_behind() as folder,
        centre_with_sites(folder / "work", load) as (watch, centre),
        table.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        _put(writer, [field.name for field in fields(Sample)])
        ends = time.monotonic() + 60 * minutes
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(every_s, left))
            _put(writer, list(vars(watch.sample()).values()))
            file.flush()
        for name, count in sorted(count_rows(centre.database).items()):
            typer.echo(f"rows of {name}: {count}")


def _put(writer: object, line: Sequence[object]) -> None:
    writer.writerow(line)  # type: ignore[attr-defined]
    typer.echo(" ".join(map(str, line)))


def entry() -> None:
    """The command."""
    typer.run(main)


if __name__ == "__main__":
    entry()
