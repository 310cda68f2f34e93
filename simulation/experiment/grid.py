"""Fits the study to a folder of scans: quorum, spacing and patch."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from asdnet_models.network_config import NetworkConfig
from client.data.errors import ScanError
from client.data.files.geometry import axes_along_patient
from client.data.files.image_io import read_grid
from client.data.folder.entries import case_name
from client.data.folder.layout import LayoutError
from protocol.config.explanation import explain
from protocol.config.presets import PresetName
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.wording import listed_names
from server.monitoring.hints import Scans
from simulation.experiment.methods import Method, protocol_of
from simulation.layouts import StudyCase
from simulation.options import CommonOptions

Triple = tuple[float, float, float]
Edges = tuple[int, int, int]
Vector = NDArray[np.float64]

# Voxels of a median scan on the study's grid; None keeps the preset's own grid (the paper's).
_TARGET_VOXELS: dict[PresetName, int | None] = {
    "smoke": 9_000,
    "quick": 65_000,
    "planned": 65_000,
    "paper": None,
}
_SMALLEST_EDGE = 16


def fitted_protocol(
    options: CommonOptions,
    methods: Mapping[str, Method],
    cases: Sequence[StudyCase],
    left_out: frozenset[str] = frozenset(),
) -> StudyProtocol:
    """The protocol with a quorum that the sites can meet, and with the one grid of all methods.

    Scans of sites that are left out count for the grid: with and without them it is the same.
    Whether each method can be trained on it, `possible_methods` says.
    """
    protocol = options.protocol
    # One site alone is a study too: central training.
    sites = len({case.site for case in cases} - left_out)
    least = min(protocol.aggregation.min_sites, sites)
    aggregation = protocol.aggregation.model_copy(update={"min_sites": least})
    return on_shared_grid(
        protocol.model_copy(update={"aggregation": aggregation}),
        methods,
        [case.image for case in cases],
        None if options.fixed_grid else options.preset,
    )


def largest_stride(methods: Iterable[Method], base: StudyProtocol) -> Edges:
    """What the edges of the patch that all these methods share must be multiples of, voxels."""
    networks = [base.network]
    for method in methods:
        changed = base.network.model_dump() | dict(method.changes.get("network", {}))
        # One that is not possible is named when its protocol is tried.
        with suppress(ValidationError):
            networks.append(NetworkConfig.model_validate(changed))
    x, y, z = (max(edges) for edges in zip(*(n.stride for n in networks), strict=True))
    return x, y, z


def on_shared_grid(
    base: StudyProtocol,
    methods: Mapping[str, Method],
    images: Sequence[Path],
    preset: PresetName | None,
) -> StudyProtocol:
    """The protocol with the one spacing and patch on which all the methods are trained.

    Args:
        base: The study's protocol.
        methods: Methods by name: the patch fits the one that halves most often.
        images: Scans that the grid is made to fit.
        preset: Whose number of voxels is aimed at; None: the protocol's own grid stays.
    """
    if preset is None:
        return base
    grid = plan_grid(preset, images, largest_stride(methods.values(), base))
    return base if grid is None else _on(base, *grid)


def roughly_fitted(options: CommonOptions, methods: Mapping[str, Method]) -> StudyProtocol:
    """The protocol with a patch that fits as the scans' would, where there are no scans yet."""
    base = options.protocol
    if options.fixed_grid:
        return base
    strides = largest_stride(methods.values(), base)
    x, y, z = (
        -(-edge // stride) * stride for edge, stride in zip(base.patch_voxels, strides, strict=True)
    )
    return _on(base, base.spacing_mm, (x, y, z))


def _on(base: StudyProtocol, spacing_mm: Triple, patch_voxels: Edges) -> StudyProtocol:
    return base.model_copy(update={"spacing_mm": spacing_mm, "patch_voxels": patch_voxels})


def possible_methods(
    base: StudyProtocol, methods: Mapping[str, Method], optional: Collection[str] = ()
) -> tuple[dict[str, Method], list[str]]:
    """The methods that can be trained on this study, each a study of its own.

    Args:
        base: The study, on its grid.
        methods: Methods by name; each one's protocol is tried.
        optional: Those that nobody has named: what is not possible of them is left out.

    Returns:
        What is left, and why the others are not, a line each.

    Raises:
        ProtocolError: With every mistake, if a method that was named is not possible or is the
            same as another one, or if none is left.
    """
    faults: dict[str, str] = {}
    of_study: dict[str, list[str]] = {}
    for name, method in methods.items():
        try:
            digest = protocol_of(method, base, base.seed).digest
        except ValidationError as error:
            faults[name] = explain(error, f"method {name}")
        else:
            of_study.setdefault(digest if method.kind == "weights" else name, []).append(name)
    mistakes = [fault for name, fault in faults.items() if name not in optional]
    left_out = [fault for name, fault in faults.items() if name in optional]
    kept: set[str] = set()
    for names in of_study.values():
        named = [name for name in names if name not in optional]
        stays = named or names[:1]
        kept.update(stays)
        left_out += [
            f"method {name}: is {stays[0]} on this study" for name in names if name not in stays
        ]
        if len(named) > 1:
            mistakes.append(
                f"methods {listed_names(named)}: are one and the same on this study; leave all "
                "but one out, or change what they are to differ in"
            )
    if mistakes or not kept:
        raise ProtocolError("\n".join(mistakes or left_out or ["--tables: names no method"]))
    return {name: method for name, method in methods.items() if name in kept}, left_out


def plan_grid(
    name: PresetName, images: Sequence[Path], stride: Edges
) -> tuple[Triple, Edges] | None:
    """Spacing in mm and patch edges for these scans, or None where the preset fixes them.

    The spacing is the scans' median one, coarsened from its finest axis on until a median scan
    has the preset's number of voxels; the patch is that median scan, its edges rounded
    down to multiples of `stride`, the largest of the networks that are trained on it.
    """
    target = _TARGET_VOXELS[name]
    if target is None:
        return None
    spacing, extent = np.median(_geometries_lps(images), axis=0)
    grid = np.round(_coarsened(spacing, extent, target), 2)
    edges = [
        _edge(mm / step, multiple) for mm, step, multiple in zip(extent, grid, stride, strict=True)
    ]
    x, y, z = (float(value) for value in grid)
    return (x, y, z), (edges[0], edges[1], edges[2])


def median_scan(images: Sequence[Path]) -> Scans:
    """Spacing and extent of the median scan along the patient's axes.

    Raises:
        LayoutError: No header can be read.
    """
    spacing, extent = np.median(_geometries_lps(images), axis=0)
    return Scans(spacing_mm=tuple(spacing), extent_mm=tuple(extent))


def _geometries_lps(images: Sequence[Path]) -> list[tuple[Triple, Triple]]:
    """Spacing and extent in mm along the patient's axes, of the scans whose headers can be read.

    The others are refused with all other faults when the cases are checked (`preparation.py`).

    Raises:
        LayoutError: None of them can be read.
    """
    geometries, mistakes = [], []
    for path in images:
        try:
            geometries.append(_geometry_lps(path))
        except ScanError as error:
            mistakes.append(str(error))
    if not geometries:
        raise LayoutError(mistakes)
    return geometries


def _geometry_lps(path: Path) -> tuple[Triple, Triple]:
    """Spacing and extent in mm along the patient's axes.

    Raises:
        ScanError: The header is not that of a scan.
    """
    grid = read_grid(path, case=case_name(path))
    axes = axes_along_patient(grid.direction)
    spacing = np.array(grid.spacing_mm_xyz)[axes]
    extent = np.multiply(grid.spacing_mm_xyz, grid.size_xyz)[axes]
    return tuple(spacing), tuple(extent)


def _coarsened(spacing: Vector, extent: Vector, target: int) -> Vector:
    """max(spacing, s) with the smallest s that meets the target; by bisection over s."""
    low, high = float(spacing.min()), float(max(extent))
    if math.prod(extent / spacing) <= target:
        return spacing
    for _ in range(60):
        middle = (low + high) / 2
        if math.prod(extent / np.maximum(spacing, middle)) > target:
            low = middle
        else:
            high = middle
    coarse: Vector = np.maximum(spacing, high)
    return coarse


def _edge(voxels: float, stride: int) -> int:
    return stride * max(math.ceil(_SMALLEST_EDGE / stride), math.floor(voxels / stride))
