"""The synthetic cohort (docs/method.md): 50 labelled and 20 unlabelled pelvic MR phantoms.

Synthetic throughout.  The version is raised whenever a voxel changes, and results name version
and hash.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydantic import BaseModel, ConfigDict

from client.data.files.writing import write_image
from client.data.folder.names import check_name
from protocol.files import atomic_folder
from simulation.errors import CohortError
from simulation.phantom.acquisition import ORGANS, Acquired, acquire
from simulation.phantom.contrast import T2_LEVELS
from simulation.phantom.sites import SITES
from simulation.phantom.subjects import draw_subject
from simulation.processes import all_results, spawned_pool

PHANTOM_VERSION = "2"
MANIFEST = "cohort.json"
# Below, a case needs gigabytes; above, organs are a few voxels.
_VOXEL_MM = (0.5, 10.0)


class CaseEntry(BaseModel):
    """One case of the manifest; hashes are of voxels and geometry, not of compressed files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    site: str
    labelled: bool
    image_sha256: str
    label_sha256: str


class CohortManifest(BaseModel):
    """cohort.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    seed: int
    voxel_mm: float
    counts: dict[str, tuple[int, int]]
    organs: dict[str, int]
    cases: tuple[CaseEntry, ...]
    sha256: str


def make_cohort(
    folder: Path,
    *,
    seed: int = 2018,
    voxel_mm: float = 1.0,
    counts: Mapping[str, tuple[int, int]] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CohortManifest:
    """The cohort in `folder`, made first unless it is there already.

    Layout: imagesTr/ with labelsTr/ (the reader's) and labelsRef/ (the truth, for scoring), and
    imagesUn/ with labelsUn/ (withheld).  An interrupted make leaves nothing.

    Args:
        folder: Made complete or not at all.
        seed: Every case has a generator of its own from (seed, site, number).
        voxel_mm: In-plane scale; coarser is faster.
        counts: (labelled, unlabelled) by site; the method's 50 + 20 if None.
        workers: Processes; all cores if None.
        progress: Called with (done, total).

    Raises:
        CohortError: If the folder holds another cohort or something else, or no cohort can be
            made of these numbers.
        ScanError: The folder's name is not UTF-8.
    """
    if counts is None:
        counts = {name: (site.labelled, site.unlabelled) for name, site in SITES.items()}
    wanted = dict(counts)
    _check(voxel_mm, wanted)
    check_name(folder.absolute(), f"folder {folder}:")
    if folder.exists():
        return _reused(folder, seed, voxel_mm, wanted)
    with atomic_folder(folder, overwrite=False, durable=False) as draft:
        for name in ("imagesTr", "labelsTr", "labelsRef", "imagesUn", "labelsUn"):
            (draft / name).mkdir()
        entries = _make_cases(draft, seed, voxel_mm, wanted, workers, progress)
        digest = hashlib.sha256(
            "".join(e.image_sha256 + e.label_sha256 for e in entries).encode()
        ).hexdigest()
        manifest = CohortManifest(
            version=PHANTOM_VERSION,
            seed=seed,
            voxel_mm=voxel_mm,
            counts=wanted,
            organs=ORGANS,
            cases=tuple(entries),
            sha256=digest,
        )
        (draft / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> CohortManifest:
    """cohort.json of a made cohort.

    Raises:
        CohortError: If there is none.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise CohortError(
            f"{folder}: has no {MANIFEST}, so is no made cohort; choose another folder"
        )
    return CohortManifest.model_validate_json(path.read_text(encoding="utf-8"))


def _check(voxel_mm: float, counts: Mapping[str, tuple[int, int]]) -> None:
    mistakes = []
    if not _VOXEL_MM[0] <= voxel_mm <= _VOXEL_MM[1]:
        mistakes.append(f"voxel_mm is {voxel_mm}, must be {_VOXEL_MM[0]} to {_VOXEL_MM[1]}")
    unknown = sorted(set(counts) - set(SITES))
    if unknown:
        mistakes.append(f"counts name the sites {unknown}, known are {sorted(SITES)}")
    if any(number < 0 for pair in counts.values() for number in pair):
        mistakes.append(f"counts are {dict(counts)}, must not be negative")
    if not sum(sum(pair) for pair in counts.values()):
        mistakes.append("counts add up to no case; ask for one at least")
    if mistakes:
        raise CohortError("phantom cohort: " + "; ".join(mistakes))


def _reused(
    folder: Path, seed: int, voxel_mm: float, counts: Mapping[str, tuple[int, int]]
) -> CohortManifest:
    manifest = read_manifest(folder)
    for what, held, asked in (
        ("version", manifest.version, PHANTOM_VERSION),
        ("seed", manifest.seed, seed),
        ("voxel_mm", manifest.voxel_mm, voxel_mm),
        ("counts", manifest.counts, dict(counts)),
    ):
        if held != asked:
            raise CohortError(
                f"{folder}: holds a cohort whose {what} is {held}, asked for is {asked}; "
                "remove the folder or choose another"
            )
    return manifest


def _make_cases(
    draft: Path,
    seed: int,
    voxel_mm: float,
    counts: Mapping[str, tuple[int, int]],
    workers: int | None,
    progress: Callable[[int, int], None] | None,
) -> list[CaseEntry]:
    jobs = [
        (draft, seed, voxel_mm, site, number, number < labelled)
        for site, (labelled, unlabelled) in sorted(counts.items())
        for number in range(labelled + unlabelled)
    ]
    with spawned_pool(workers) as pool:
        return all_results([pool.submit(make_case, *job) for job in jobs], progress)


def make_case(
    folder: Path, seed: int, voxel_mm: float, site: str, number: int, labelled: bool
) -> CaseEntry:
    """Draw, acquire and write one case."""
    acquired = acquire_case(seed, voxel_mm, site, number)
    name = f"{site}_{number + 1:03d}"
    if labelled:
        _write(acquired.image, folder / "imagesTr" / f"{name}.nii.gz")
        _write(acquired.reader, folder / "labelsTr" / f"{name}.nii.gz")
        _write(acquired.reference, folder / "labelsRef" / f"{name}.nii.gz")
    else:
        _write(acquired.image, folder / "imagesUn" / f"{name}.nii.gz")
        _write(acquired.reference, folder / "labelsUn" / f"{name}.nii.gz")
    return CaseEntry(
        name=name,
        site=site,
        labelled=labelled,
        image_sha256=_digest(acquired.image),
        label_sha256=_digest(acquired.reference),
    )


def acquire_case(seed: int, voxel_mm: float, site: str, number: int) -> Acquired:
    """Case `number` (from 0) of a site; depends on nothing but these four."""
    site_number = sorted(SITES).index(site)
    scanner = SITES[site].scanner
    rng = np.random.default_rng([seed, site_number, number])
    # A site's tissue levels are its scanner's: the same for all of its cases.
    site_rng = np.random.default_rng([seed, site_number])
    levels = {
        tissue: level * float(np.exp(site_rng.normal(0, scanner.level_shift)))
        for tissue, level in T2_LEVELS.items()
    }
    subject = draw_subject(rng, scanner.bladder_factor)
    return acquire(subject, scanner, levels, voxel_mm, rng)


def _write(image: sitk.Image, path: Path) -> None:
    write_image(image, path, level=1)


def _digest(image: sitk.Image) -> str:
    digest = hashlib.sha256(sitk.GetArrayFromImage(image).tobytes())
    geometry = (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())
    digest.update(" ".join(f"{value:.6f}" for value in geometry).encode())
    return digest.hexdigest()
