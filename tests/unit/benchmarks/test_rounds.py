"""Round overhead: what is subtracted, and that a peer which is not installed is named."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import own_rounds, peer_rounds, rounds
from benchmarks.processes import MeasurementError, Processes, nothing_left_behind
from benchmarks.run import lines_of

SLEEPER = "import time; time.sleep(600)"
# A child that makes a session of its own, as Flower's and NVFLARE's do; it prints who it is.
RUNAWAY = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], start_new_session=True)
print(child.pid, flush=True)
"""


def finished(at: float, *seconds: float) -> Any:
    reports = {str(i): SimpleNamespace(seconds=s) for i, s in enumerate(seconds)}
    return SimpleNamespace(finished_at=at, reports=reports)


def test_overhead_is_the_time_between_rounds_less_the_slowest_sites_training() -> None:
    found = own_rounds.overheads([finished(10, 9, 9), finished(14, 1, 3), finished(20, 2, 0.5)])
    assert found == [4 - 3, 6 - 2]


def test_the_study_has_about_four_million_parameters() -> None:
    shapes = rounds.shapes_of(own_rounds.study(3))
    assert 4.1e6 < sum(rounds._product(shape) for shape in shapes.values()) < 4.3e6


def test_targets_come_from_what_was_measured() -> None:
    rows = rounds.rows_of(rounds.DEPLOYED, {rounds.OURS: [1, 2, 9], "fast": [1, 1, 1]})
    rows += rounds.rows_of(rounds.SIMULATED, {rounds.OURS: [1, 2, 9], "slow": [3, 3, 3]})
    assert [(row.value, row.ratio) for row in rows] == [(2, None), (1, 0.5), (2, None), (3, 1.5)]
    lost, won = rounds.targets(rows)
    assert (lost.met, won.met) == (False, True)
    assert "2.00 s against 1.00 s" in lost.reached and lost.why


def test_nvflare_that_is_not_installed_is_reported_in_the_row_and_in_the_target() -> None:
    rows = rounds.rows_of(rounds.DEPLOYED, {rounds.OURS: [1]})
    rows.append(rounds.not_installed(rounds.DEPLOYED))
    [target] = rounds.targets(rows)
    assert not target.met and "not installed" in target.why and "NVFLARE" in target.target
    report = rounds.Report(heading="x", rows=rows)
    assert f"not installed: {peer_rounds.NVFLARE_VARIABLE}" in lines_of(report)[-1]


def test_a_python_without_nvflare_is_refused_by_the_variables_name() -> None:
    with pytest.raises(MeasurementError, match=peer_rounds.NVFLARE_VARIABLE):
        peer_rounds.nvflare_version(Path(sys.executable))


@pytest.mark.parametrize("end", [KeyboardInterrupt, MeasurementError, None])
def test_no_process_and_no_folder_outlives_a_measurement(end: type[BaseException] | None) -> None:
    noted: dict[str, Any] = {}
    other = subprocess.Popen([sys.executable, "-c", SLEEPER])

    def measure() -> None:
        with nothing_left_behind() as folder, Processes(folder / "work", {}) as processes:
            noted["folder"] = folder
            processes.start("sleeper", sys.executable, "-c", SLEEPER)
            processes.call("runaway", sys.executable, "-c", RUNAWAY, timeout_s=60)
            noted["pid"] = int(processes.log("runaway"))
            os.kill(noted["pid"], 0)
            if end is not None:
                raise end

    try:
        if end is None:
            measure()
        else:
            with pytest.raises(end):
                measure()
        assert not noted["folder"].exists()
        deadline = time.monotonic() + 10
        while _runs(noted["pid"]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _runs(noted["pid"])
        assert other.poll() is None  # not ours to end
    finally:
        other.kill()
        other.wait()


def test_nor_does_any_where_the_measurement_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from benchmarks.processes import Processes, nothing_left_behind
with nothing_left_behind() as folder, Processes(folder / "work", {{}}) as processes:
    pid = processes.start("sleeper", sys.executable, "-c", {SLEEPER!r}).pid
    Path({str(tmp_path / "noted")!r}).write_text(f"{{pid}} {{folder}}")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=rounds_root(), check=False)
    assert done.returncode == -signal.SIGKILL
    pid, folder = (tmp_path / "noted").read_text().split(maxsplit=1)
    deadline = time.monotonic() + 10
    while (_runs(int(pid)) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(int(pid)) and not Path(folder).exists()


def rounds_root() -> Path:
    return Path(rounds.__file__).parents[1]


def test_a_command_that_fails_is_reported_with_what_it_printed(tmp_path: Path) -> None:
    script = "import sys; print('what went wrong'); sys.exit(3)"
    with (
        Processes(tmp_path, {}) as processes,
        pytest.raises(MeasurementError, match=r"ended with 3[\s\S]*what went wrong"),
    ):
        processes.call("it", sys.executable, "-c", script, timeout_s=60)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return cast(str, state) != "Z"
