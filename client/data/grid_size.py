"""How large scans become on a study's grid, from their headers: before anything is resampled."""

import itertools
import math
from collections.abc import Iterable, Sequence

from client.data.case import Case
from client.data.dicom.series import series_grid
from client.data.errors import ScanError
from client.data.files.geometry import ImageGrid, check_plausible
from client.data.files.image_io import read_grid
from protocol.config.limits import SiteLimits, limit_line
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

GIB = 2**30
# Enough places to centre a patch on; sampled evenly, the same for the same label map.
PLACES_PER_ORGAN = 4096
_PLACE_BYTES = 12
_FLOAT_BYTES = 4
_HEADERS_BYTES = 64 * 2**10
# Above any size that a scan can have, and below infinity.
_MOST = 10**30


def study_voxels(case: Case, spacing_mm: Sequence[float]) -> int | None:
    """Voxels of a case's scan on the study's grid, at most; None where its header is unreadable.

    The axes of an oriented scan may come in any order, so the largest of all orders is taken: they
    differ by the rounding up of each edge.
    """
    header = size_and_spacing(case)
    if header is None:
        return None
    size, own_mm = header
    if len(size) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in own_mm):
        return None  # reading it says what is wrong
    edges = [n * mm for n, mm in zip(size, own_mm, strict=True)]
    grids = [
        math.prod(max(1, math.ceil(min(a / b, _MOST))) for a, b in zip(edges, order, strict=True))
        for order in itertools.permutations(spacing_mm)
    ]
    return max(math.prod(size), *grids) if _same(own_mm, spacing_mm) else max(grids)


def most_bytes(voxels: int, protocol: StudyProtocol, *, labelled: bool) -> int:
    """What so many voxels take in the cache at most: the image, the label, places of organs."""
    places = min(voxels, PLACES_PER_ORGAN * len(protocol.organs)) * _PLACE_BYTES
    return voxels * _FLOAT_BYTES + labelled * (voxels + places) + _HEADERS_BYTES


def prediction_bytes(voxels: int, classes: int) -> int:
    """Memory of predicting one scan, without the networks.

    The scan, the probabilities, and as much again for the sums of the sliding window.
    """
    return voxels * _FLOAT_BYTES * (1 + 2 * classes)


def broken_by_grids(
    site: str, limits: SiteLimits, protocol: StudyProtocol, voxels: Iterable[int]
) -> list[str]:
    """Which limits of a single scan the largest of these breaks: setting, value, limit, remedy."""
    largest = max(voxels, default=0)
    broken: list[str] = []
    spacing = " x ".join(f"{mm:g}" for mm in protocol.spacing_mm)
    if largest > limits.max_grid_voxels:
        found = f"at spacing_mm {spacing} the largest scan has {largest:,} voxels"
        allowed = f"{limits.max_grid_voxels:,} at most"
        broken.append(limit_line(site, "max_grid_voxels", found, allowed))
    memory = prediction_bytes(largest, protocol.classes)
    if memory > limits.max_memory_gib * GIB:
        found = f"to predict the largest scan at spacing_mm {spacing} takes {memory / GIB:.3g} GiB"
        allowed = f"{limits.max_memory_gib:g} at most"
        broken.append(limit_line(site, "max_memory_gib", found, allowed))
    return broken


def broken_by_scans(
    config: SiteConfig, protocol: StudyProtocol, cases: Iterable[Case]
) -> list[str]:
    """As `broken_by_grids` of all scans of a site, and whether all of them fit into its cache."""
    sized = [(case, study_voxels(case, protocol.spacing_mm)) for case in cases]
    known = [(case, voxels) for case, voxels in sized if voxels is not None]
    broken = broken_by_grids(config.site, config.limits, protocol, [v for _, v in known])
    needed = sum(most_bytes(v, protocol, labelled=c.label is not None) for c, v in known)
    if needed > config.limits.cache_gib * GIB:
        found = f"the cache of {len(known)} scans takes {needed / GIB:.3g} GiB"
        allowed = f"{config.limits.cache_gib:g} at most"
        broken.append(limit_line(config.site, "cache_gib", found, allowed))
    return broken


def _same(own_mm: Sequence[float], spacing_mm: Sequence[float]) -> bool:
    """Whether some order of the axes may be left as it is (`preprocessing.py`), a little finer."""
    return any(
        all(abs(a - b) <= 2e-3 for a, b in zip(own_mm, order, strict=True))
        for order in itertools.permutations(spacing_mm)
    )


def size_and_spacing(case: Case) -> tuple[Sequence[int], Sequence[float]] | None:
    """Of a case's scan, voxels and mm, from its header; None where that cannot be read."""
    try:
        series = case.series
        if series is not None:  # parsed already
            grid = series_grid(series, location="")
            found = ImageGrid(
                size_xyz=grid.shape[::-1],
                spacing_mm_xyz=grid.spacing_mm,
                origin_mm=grid.origin_mm,
                direction=grid.direction,
            )
            check_plausible(found, location="")
            return found.size_xyz, found.spacing_mm_xyz
        header = read_grid(case.image, case=case.name)
    except (OSError, ScanError):
        return None
    return header.size_xyz, header.spacing_mm_xyz
