"""One scan of 256 x 256 x 144 voxels for every measurement, and what a job takes in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from simulation.phantom.acquisition import acquire
from simulation.phantom.anatomy import draw_subject
from simulation.phantom.cohort import SITES
from simulation.phantom.contrast import T2_LEVELS

SIZE_XYZ = (256, 256, 144)
_DRAWN_MM = 2.0  # finer takes a minute, and no measurement looks at texture
_CHILD = """
import importlib, json, sys, time
from benchmarks.scans import high_water_mib
module = importlib.import_module(sys.argv[1])
job = module.prepare(sys.argv[2], *sys.argv[3:])
before, started = high_water_mib(), time.perf_counter()
job()
print(json.dumps([time.perf_counter() - started, high_water_mib(), before]))
"""


@dataclass(frozen=True, kw_only=True)
class Once:
    """One run of a job in a process of its own.

    Attributes:
        seconds: Of the job alone.
        peak_mib: VmHWM at its end, imports and input included.
        added_mib: By how much the job raised it.
    """

    seconds: float
    peak_mib: float
    added_mib: float


def phantom() -> tuple[sitk.Image, sitk.Image]:
    """A synthetic pelvic scan and its label map, 1 mm, float32 and 8-bit."""
    scanner = replace(
        SITES["E"].scanner,
        field_mm=(float(SIZE_XYZ[0]), float(SIZE_XYZ[1]), float(SIZE_XYZ[2])),
        pixel_mm=_DRAWN_MM,
        slice_mm=_DRAWN_MM,
        tilt_deg=0.0,
    )
    rng = np.random.default_rng(7)
    found = acquire(draw_subject(rng, 1.0), scanner, dict(T2_LEVELS), _DRAWN_MM, rng)
    grid = sitk.Image(SIZE_XYZ, sitk.sitkUInt8)
    grid.SetOrigin(found.image.GetOrigin())
    grid.SetDirection(found.image.GetDirection())
    image = sitk.Resample(
        sitk.Cast(found.image, sitk.sitkFloat32), grid, sitk.Transform(), sitk.sitkLinear
    )
    return image, sitk.Resample(found.reference, grid, sitk.Transform(), sitk.sitkNearestNeighbor)


def once(module: str, *arguments: str) -> Once:
    """Run `module.prepare(*arguments)()` in a child process."""
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, module, *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak, before = json.loads(done.stdout.splitlines()[-1])
    return Once(seconds=seconds, peak_mib=peak, added_mib=peak - before)


def high_water_mib() -> float:
    """VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
