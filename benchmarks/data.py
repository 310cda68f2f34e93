"""From preprocessed scans to a batch: our memory-mapped cache against MONAI's data sets.

Run as `python -m benchmarks.data FOLDER WHO`, it draws patches of all cases of a folder and prints
by how many MiB its anonymous memory grew.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset

from benchmarks.common import Report, Row, Target, in_child, in_turn, status_mib
from benchmarks.drawing import (
    Job,
    cached_entry,
    files_of,
    monai_draw,
    monai_steps,
    our_draw,
    write_scans,
)
from benchmarks.step import asdnet_step, one_thread
from client.data.cache import CachedCase
from client.data.dataset import PatchSampler
from client.training.prefetch import prefetched
from protocol.config.presets import preset
from protocol.config.study import StudyProtocol, merged

TIMES_FASTER = 5.0
WAITING = 0.02
GROWTH_MIB = 2.0
_BATCHES = 2
_SPEED_CASES, _SPEED_VOXELS = 4, (128, 128, 64)
_FEW, _MANY, _MEMORY_VOXELS = 5, 40, (96, 96, 64)


def measure() -> Report:
    """Patches a second, memory by cases, share of the time that a step waits."""
    with one_thread(), tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scans = write_scans(folder / "speed", _SPEED_CASES, _SPEED_VOXELS)
        rows, targets = [], []
        for number, (topic, study, batches) in enumerate(_studies()):
            speeds = _patches_a_second(topic, scans, folder / f"kept-{number}", study, batches)
            rows += speeds
            targets.append(_speed_target(speeds))
        memory, target = _memory(folder)
        waits, waiting = _waiting(scans)
    return Report(
        heading="From the cache to a batch",
        rows=[*rows, *memory, *waits],
        targets=[*targets, target, waiting],
        text=(
            f"{_SPEED_CASES} scans of 128x128x64 voxels, patches of 64x64x16, batches of two, no "
            "worker processes on either side. MONAI's data sets keep the places of each class too. "
            "Memory is anonymous memory: a memory-mapped page belongs to the system's page cache, "
            "is shared by all processes, and is given back whenever somebody needs it."
        ),
    )


def _patches_a_second(
    topic: str, cases: Sequence[CachedCase], folder: Path, protocol: StudyProtocol, batches: int
) -> list[Row]:
    count = protocol.training.batch_size
    steps = monai_steps(protocol)
    kept = CacheDataset(files_of(cases), steps, progress=False)
    disk = PersistentDataset(files_of(cases), steps, cache_dir=folder)
    draws = {
        "ours: PatchSampler": our_draw(cases, protocol),
        "MONAI CacheDataset": monai_draw(kept, count),
        "MONAI PersistentDataset": monai_draw(disk, count),
    }
    return in_turn(
        f"patches a second, {topic}",
        {who: _repeated(draw, batches) for who, draw in draws.items()},
        ours="ours: PatchSampler",
        per_second=batches * count,
    )


def _studies() -> Iterator[tuple[str, StudyProtocol, int]]:
    """What is drawn, the study, and batches at once: strong views cost much only now and then."""
    paper = preset("paper")
    yield "random views off", merged(paper, {"training": {"views": "none"}}), _BATCHES
    yield "random views on", paper, _BATCHES
    strong = merged(paper, {"training": {"views": "strong"}})
    yield "strong views, turned in the plane", strong, 10 * _BATCHES
    cube = merged(strong, {"patch_voxels": (40, 40, 40)})
    yield "strong views of 40x40x40, turned about all axes", cube, 10 * _BATCHES


def _repeated(draw: Job, batches: int) -> Job:
    def draws() -> None:
        for _ in range(batches):
            draw()

    return draws


def _speed_target(rows: Sequence[Row]) -> Target:
    fastest = max(rows[1:], key=lambda row: row.value)
    times = rows[0].value / fastest.value
    met = times >= TIMES_FASTER
    return Target(
        topic=rows[0].topic,
        target=f"at least {TIMES_FASTER:g} times MONAI's faster data set",
        reached=f"{times:.1f} times {fastest.who}",
        met=met,
        why="" if met else "interpolation and noise, the same work for both, are what is left",
    )


def _memory(folder: Path) -> tuple[list[Row], Target]:
    """Anonymous memory of drawing from few and from many cases, each in its own process."""
    rows = []
    grown = {}
    for count in (_FEW, _MANY):
        write_scans(folder / str(count), count, _MEMORY_VOXELS)
    for who, name in (("ours", "ours: PatchSampler"), ("cache", "MONAI CacheDataset")):
        mib = [
            float(in_child("-m", "benchmarks.data", str(folder / str(count)), who))
            for count in (_FEW, _MANY)
        ]
        grown[who] = mib[1] - mib[0]
        rows += [
            Row(
                topic=f"anonymous memory, {count} scans of 96x96x64",
                who=name,
                value=value,
                unit="MiB",
                runs=1,
            )
            for count, value in zip((_FEW, _MANY), mib, strict=True)
        ]
    target = Target(
        topic="memory by number of cases",
        target=f"does not grow: under {GROWTH_MIB:g} MiB from {_FEW} to {_MANY} scans",
        reached=f"{grown['ours']:+.1f} MiB (MONAI CacheDataset {grown['cache']:+.1f} MiB)",
        met=grown["ours"] < GROWTH_MIB,
        why="" if grown["ours"] < GROWTH_MIB else "something is read into memory and kept",
    )
    return rows, target


def anonymous_mib(folder: Path, who: str) -> float:
    """By how much this process grew when it drew from every case of the folder."""
    torch.set_num_threads(1)
    protocol = merged(preset("paper"), {"training": {"views": "none"}})
    cases = [cached_entry(entry) for entry in sorted(folder.iterdir())]
    # What the libraries take once is not the cases'.
    _draw_all(cases[:1], protocol, who)
    before = status_mib("RssAnon")
    kept = _draw_all(cases, protocol, who)
    after = status_mib("RssAnon")
    del kept
    return after - before


def _draw_all(cases: Sequence[CachedCase], protocol: StudyProtocol, who: str) -> object:
    if who == "ours":
        sampler = PatchSampler(protocol, np.random.default_rng(1), None)
        for case in cases:
            sampler.labelled([case], protocol.training.batch_size)
        return cases
    dataset = CacheDataset(files_of(cases), monai_steps(protocol), progress=False)
    for index in range(len(cases)):
        dataset[index]
    return dataset


def _waiting(cases: Sequence[CachedCase]) -> tuple[list[Row], Target]:
    """Share of a round's time in which the step has no batch yet; random views on."""
    protocol = merged(preset("quick"), {"training": {"views": "weak"}})
    step = asdnet_step(protocol)
    step()
    rows = []
    shares = {}
    for who, ahead in (("ours: drawn ahead", True), ("drawn in turn", False)):
        draw = our_draw(cases, protocol)
        of_runs = sorted(_share(draw, step, ahead=ahead) for _ in range(5))
        shares[who] = of_runs[2]
        rows.append(
            Row(
                topic="share of a round's time that waits for patches, preset quick, views on",
                who=who,
                value=100 * of_runs[2],
                unit="%",
                spread=(100 * of_runs[0], 100 * of_runs[-1]),
            )
        )
    share = shares["ours: drawn ahead"]
    return rows, Target(
        topic="waiting for data",
        target=f"under {100 * WAITING:g} % of a round's time",
        reached=f"{100 * share:.2f} %",
        met=share < WAITING,
        why="" if share < WAITING else "the drawing thread shares the step's core",
    )


def _share(draw: Job, step: Job, *, ahead: bool, steps: int = 6) -> float:
    def both() -> object:
        return draw(), draw()  # labelled and unlabelled

    in_order = (both() for _ in range(steps))
    batches: Iterator[object] = prefetched(both, steps) if ahead else in_order
    started, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return waited / (time.perf_counter() - started)
        step()


if __name__ == "__main__":
    sys.stdout.write(f"{anonymous_mib(Path(sys.argv[1]), sys.argv[2])}\n")
