"""One scan of 256 x 256 x 144 voxels for every measurement, and what a job takes in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk

from benchmarks.common import in_child
from simulation.phantom.acquisition import acquire
from simulation.phantom.contrast import T2_LEVELS
from simulation.phantom.sites import SITES
from simulation.phantom.subjects import draw_subject

SIZE_XYZ = (256, 256, 144)
_DRAWN_MM = 2.0  # finer takes a minute, and no measurement looks at texture
_CHILD = """
import importlib, json, sys, time
from benchmarks.common import status_mib
module = importlib.import_module(sys.argv[1])
job = module.prepare(sys.argv[2], *sys.argv[3:])
before, started = status_mib("VmHWM"), time.perf_counter()
job()
print(json.dumps([time.perf_counter() - started, status_mib("VmHWM"), before]))
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


def phantom(seed: int = 7, spacing_mm: float = 1.0) -> tuple[sitk.Image, sitk.Image]:
    """A synthetic pelvic scan and its label map, float32 and 8-bit, of 256 x 256 x 144 mm."""
    scanner = replace(
        SITES["E"].scanner,
        field_mm=(float(SIZE_XYZ[0]), float(SIZE_XYZ[1]), float(SIZE_XYZ[2])),
        pixel_mm=_DRAWN_MM,
        slice_mm=_DRAWN_MM,
        tilt_deg=0.0,
    )
    rng = np.random.default_rng(seed)
    scan = acquire(draw_subject(rng, 1.0), scanner, dict(T2_LEVELS), _DRAWN_MM, rng)
    grid = sitk.Image([round(n / spacing_mm) for n in SIZE_XYZ], sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin(scan.image.GetOrigin())
    grid.SetDirection(scan.image.GetDirection())
    image = sitk.Resample(
        sitk.Cast(scan.image, sitk.sitkFloat32), grid, sitk.Transform(), sitk.sitkLinear
    )
    return image, sitk.Resample(scan.reference, grid, sitk.Transform(), sitk.sitkNearestNeighbor)


def once(module: str, *arguments: str) -> Once:
    """Run `module.prepare(*arguments)()` in a child process."""
    seconds, peak, before = json.loads(in_child("-c", _CHILD, module, *arguments))
    return Once(seconds=seconds, peak_mib=peak, added_mib=peak - before)
