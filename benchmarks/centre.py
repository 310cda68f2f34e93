"""What the centre's process needs for a round of 2 to 200 sites: memory, time, disk.

Each number of sites is a process of its own, whose largest resident size the kernel keeps (VmHWM):
that counts NumPy's, PyTorch's and Python's memory alike, as the machine must have it.  The sites
are a file that is read anew for each reply, so that their work is not in the figures.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, RUNS, Report, Row, Target, in_child, replaced, status_mib
from server.admin.centre import RETURN_LARGE_BLOCKS

SITES = (2, 10, 50, 200)
PLOT = ROOT / "docs" / "images" / "centre-growth.png"
# SVNet of 12.2 M parameters would take over three minutes on two cores; this one has 2.8 M.
NETWORK = {"kernel": 3, "width": 16}
_MODELS_ALLOWED = 3.0
_OFTEN = 50  # more sites than this are measured once


def measure() -> Report:
    """Peak memory above the start, in models, and seconds, by number of sites."""
    results = [_medians([_in_a_process(count) for _ in range(_runs(count))]) for count in SITES]
    rows = [row for result in results for row in _rows(result)]
    peak = max(result["peak_models"] for result in results)
    few, many = results[1], results[-1]
    a_site = [result["seconds"] / result["sites"] for result in (few, many)]
    _plot(results)
    return Report(
        heading="The centre's growth",
        rows=rows,
        targets=[
            Target(
                topic="memory of a round",
                target=f"at most {_MODELS_ALLOWED:g} models above the start, {SITES[-1]} sites",
                reached=f"{peak:.1f} models",
                met=peak <= _MODELS_ALLOWED,
                why="" if peak <= _MODELS_ALLOWED else "see the note",
            ),
            Target(
                topic="time of a round",
                target="linear in bytes: no more a site with 200 than 1.5 times that with 10",
                reached=f"{a_site[1] / a_site[0]:.2f} times",
                met=a_site[1] <= 1.5 * a_site[0],
                why="" if a_site[1] <= 1.5 * a_site[0] else "the machine was busy",
            ),
        ],
        text=(
            f"SVNet k3 w16 and its confidence network, {many['model_bytes'] / 2**20:.1f} MiB in "
            "fp32, through the real round loop with a grid in memory; sites answer at once. The "
            "start is the process with the weights and all code loaded, before any message.\n\n"
            f"![](../images/{PLOT.name})"
        ),
    )


def _rows(result: dict[str, Any]) -> list[Row]:
    who, runs = f"{result['sites']} sites", _runs(result["sites"])
    mib = result["peak_models"] * result["model_bytes"] / 2**20
    figures = (
        ("peak memory above the start", result["peak_models"], "models", f"{mib:.0f} MiB"),
        ("one round", result["seconds"], "s", ""),
        ("of it: summing up", result["sum_seconds"], "s", ""),
        ("disk", result["disk_bytes"] / 2**20, "MiB", ""),
    )
    return [
        Row(topic=topic, who=who, value=value, unit=unit, runs=runs, note=note)
        for topic, value, unit, note in figures
    ]


def _runs(count: int) -> int:
    return RUNS if count <= _OFTEN else 1


def _medians(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: median(result[key] for result in results) for key in results[0]}


def _in_a_process(count: int) -> dict[str, Any]:
    # As the SuperLink starts the centre's process.
    environment = {**os.environ, **RETURN_LARGE_BLOCKS}
    code = f"from benchmarks.centre import child; child({count})"
    result: dict[str, Any] = json.loads(in_child("-c", code, environment=environment))
    return result


def _plot(results: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    sites = [result["sites"] for result in results]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained")
    left.plot(sites, [result["peak_models"] for result in results], "o-", color="#1f5a8a")
    left.axhline(_MODELS_ALLOWED, color="#999999", linestyle="--", linewidth=1)
    left.set(xlabel="sites", ylabel="models", title="peak memory above the start", ylim=(0, None))
    right.plot(sites, [result["seconds"] for result in results], "o-", color="#1f5a8a")
    right.set(xlabel="sites", ylabel="s", title="one round at the centre", ylim=(0, None))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=110)
    plt.close(figure)
    Image.open(PLOT).convert("RGB").quantize(256).save(PLOT, optimize=True)


# ---- in the child -------------------------------------------------------------------------------


def child(count: int) -> None:
    """One study of one round; prints what it took."""
    import torch

    from flower_compat.task_identity import work_for

    # With two, and other work on the machine, they mostly wait for each other.
    torch.set_num_threads(1)
    work_for((3, 2, 1))
    # A tiny study first: what is loaded once, for a model of any size, is not of the round.
    _study(2, {"kernel": 3, "width": 2})
    print(json.dumps(_study(count, NETWORK)))


def _study(count: int, network: dict[str, int]) -> dict[str, Any]:
    from benchmarks.file_grid import FileGrid
    from protocol.config.study import StudyProtocol, merged
    from protocol.wire.weights import bytes_of
    from server.rounds.loop import new_record, run_study
    from server.rounds.watchers import Watcher

    changes = {
        "network": network,
        "training": {"rounds": 1},
        "evaluation": {"every_rounds": 2},
        "aggregation": {"min_sites": 1},
    }
    record = new_record(merged(StudyProtocol(), changes), "bench")
    model = bytes_of(record.segmenter) + bytes_of(record.confidence)
    with tempfile.TemporaryDirectory() as folder, _watched() as (disk, summing):
        grid = FileGrid(count, record, Path(folder))
        start = _settled()
        run_study(grid, record, Watcher(), expected_sites=count, updates=Path(folder) / "updates")
        peak = status_mib("VmHWM")
    done = record.rounds[-1]
    assert len(done.reports) == count
    return {
        "sites": count,
        "model_bytes": model,
        "peak_models": (peak - start) * 2**20 / model,
        "seconds": done.seconds,
        "sum_seconds": sum(summing),
        "disk_bytes": max(disk),
    }


def _settled() -> float:
    """The resident size now; the kernel keeps the largest one from here on."""
    gc.collect()
    # What was freed before, and is only kept for later, would hide what a round needs.
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return status_mib("VmHWM")


@contextmanager
def _watched() -> Iterator[tuple[list[int], list[float]]]:
    """Notes the disk that a round's updates take, and the seconds of summing them."""
    from server.rounds.updates import RoundUpdates

    disk, seconds = [0], [0.0]
    combine = RoundUpdates.combine

    def watched(self: RoundUpdates, *arguments: Any) -> Any:
        disk.append(sum(path.stat().st_size for path in self._folder.iterdir()))
        started = time.perf_counter()
        result = combine(self, *arguments)
        seconds.append(time.perf_counter() - started)
        return result

    with replaced(RoundUpdates, "combine", watched):
        yield disk, seconds
