"""The made cohort: what it holds, and that it is the same wherever it is made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, label

from client.data.errors import ScanError
from simulation.errors import CohortError
from simulation.phantom import acquisition, anatomy, shapes
from simulation.phantom.cohort import CohortManifest, acquire_case, make_cohort, read_manifest
from simulation.phantom.painter import Painter
from simulation.phantom.sites import SITES
from simulation.phantom.subjects import draw_subject

COUNTS = {"A": (2, 0), "C": (1, 0), "D": (1, 1), "E": (1, 0), "F": (0, 1)}
ORGANS = (1, 2, 3)


def load(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def voxels(image: sitk.Image) -> NDArray[np.int64]:
    return sitk.GetArrayFromImage(image).astype(np.int64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CohortManifest]:
    folder = tmp_path_factory.mktemp("cohorts") / "made"
    return folder, make_cohort(folder, seed=7, voxel_mm=3.0, counts=COUNTS, workers=1)


def images(made: tuple[Path, CohortManifest]) -> list[tuple[str, Path, Path]]:
    """(case, image, reference) of every case."""
    folder, manifest = made
    return [
        (
            case.name,
            folder / ("imagesTr" if case.labelled else "imagesUn") / f"{case.name}.nii.gz",
            folder / ("labelsRef" if case.labelled else "labelsUn") / f"{case.name}.nii.gz",
        )
        for case in manifest.cases
    ]


# ---- the cohort --------------------------------------------------------------------------------


def test_layout_and_manifest(made: tuple[Path, CohortManifest]) -> None:
    folder, manifest = made
    labelled = {f"{n}.nii.gz" for n in ("A_001", "A_002", "C_001", "D_001", "E_001")}
    for part in ("imagesTr", "labelsTr", "labelsRef"):
        assert {p.name for p in (folder / part).iterdir()} == labelled
    for part in ("imagesUn", "labelsUn"):
        assert {p.name for p in (folder / part).iterdir()} == {"D_002.nii.gz", "F_001.nii.gz"}
    assert read_manifest(folder) == manifest
    content = json.loads((folder / "cohort.json").read_text())
    assert content["organs"] == {"bladder": 1, "prostate": 2, "rectum": 3}
    assert content["counts"]["D"] == [1, 1]
    assert [case["labelled"] for case in content["cases"]] == [True] * 4 + [False, True, False]


def test_the_default_cohort_is_the_methods() -> None:
    counts = {name: (site.labelled, site.unlabelled) for name, site in SITES.items()}
    assert counts == {
        "A": (15, 0), "B": (12, 0), "C": (10, 0), "D": (8, 5), "E": (5, 0), "F": (0, 15)
    }  # fmt: skip
    assert len({(s.scanner.gamma, s.scanner.snr, s.scanner.field_mm) for s in SITES.values()}) == 6
    assert all(0.1 <= s.scanner.bias <= 0.4 for s in SITES.values())
    assert {s.scanner.slice_mm for s in SITES.values()} == {1.0, 2.0, 3.0}


def test_workers_and_other_cases_change_nothing(
    made: tuple[Path, CohortManifest], tmp_path: Path
) -> None:
    few = {"A": (1, 0), "C": (1, 0)}
    again = make_cohort(tmp_path / "again", seed=7, voxel_mm=3.0, counts=few, workers=2)
    assert set(again.cases) == {case for case in made[1].cases if case.name in ("A_001", "C_001")}
    other = acquire_case(8, 3.0, "A", 0)
    assert not np.array_equal(
        voxels(other.image), voxels(load(made[0] / "imagesTr" / "A_001.nii.gz"))
    )


def test_a_cohort_is_reused_or_refused(made: tuple[Path, CohortManifest]) -> None:
    folder, manifest = made
    before = (folder / "cohort.json").stat().st_mtime_ns
    assert make_cohort(folder, seed=7, voxel_mm=3.0, counts=COUNTS) == manifest
    assert (folder / "cohort.json").stat().st_mtime_ns == before
    with pytest.raises(CohortError, match=r"seed is 7, asked for is 8; remove the folder"):
        make_cohort(folder, seed=8, voxel_mm=3.0, counts=COUNTS)
    with pytest.raises(CohortError, match=r"voxel_mm is 3\.0, asked for is 5\.0"):
        make_cohort(folder, seed=7, voxel_mm=5.0, counts=COUNTS)
    with pytest.raises(CohortError, match="counts is"):
        make_cohort(folder, seed=7, voxel_mm=3.0)


def test_a_cohort_of_another_version_is_refused(
    made: tuple[Path, CohortManifest], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(made[0], old)
    (old / "cohort.json").write_text(
        made[1].model_copy(update={"version": "0"}).model_dump_json(), encoding="utf-8"
    )
    with pytest.raises(CohortError, match="version is 0"):
        make_cohort(old, seed=7, voxel_mm=3.0, counts=COUNTS)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CohortError, match=r"has no cohort\.json"):
        make_cohort(tmp_path, counts={"A": (1, 0)})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_impossible_numbers_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"voxel_mm is 0.*sites \['Z'\].*negative"):
        make_cohort(tmp_path / "never", voxel_mm=0, counts={"Z": (-1, 0)})
    with pytest.raises(CohortError, match="no case"):
        make_cohort(tmp_path / "never", counts={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_make_leaves_nothing(tmp_path: Path, workers: int) -> None:
    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (1, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_cohort(
            tmp_path / "cohort", voxel_mm=8.0, counts={"A": (3, 0)}, workers=workers,
            progress=interrupt,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


# ---- the scans ---------------------------------------------------------------------------------


def test_labels_lie_on_the_image_grid(made: tuple[Path, CohortManifest]) -> None:
    for name, image_path, reference_path in images(made):
        image, others = load(image_path), [load(reference_path)]
        reader = made[0] / "labelsTr" / f"{name}.nii.gz"
        others += [load(reader)] if reader.exists() else []
        assert image.GetPixelID() == sitk.sitkInt16
        for other in others:
            assert other.GetPixelID() == sitk.sitkUInt8
            assert other.GetSize() == image.GetSize()
            for grid in ("GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(other, grid)() == pytest.approx(getattr(image, grid)(), abs=1e-4)


def test_every_organ_is_there_in_one_piece(made: tuple[Path, CohortManifest]) -> None:
    for name, _, path in images(made):
        array = voxels(load(path))
        assert set(np.unique(array)) == {0, *ORGANS}, name
        for organ in ORGANS:
            parts, number = label(array == organ, np.ones((3, 3, 3)))
            sizes = np.bincount(parts.ravel())[1:]
            assert number and sizes.max() >= 0.98 * sizes.sum(), (name, organ)


def test_sites_differ_in_grid_and_orientation(made: tuple[Path, CohortManifest]) -> None:
    first = {name[0]: load(path) for name, path, _ in images(made)}
    assert len({first[site].GetSpacing() for site in "ACDF"}) == 4
    assert len({image.GetSize() for image in first.values()}) == len(first)
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines
    assert code(first["A"].GetDirection()) == "LPS"
    assert code(first["C"].GetDirection()) == "RAS"
    tilt = np.degrees(np.arccos(first["E"].GetDirection()[8]))
    assert 1 < tilt <= 8


def test_content_agrees_with_the_geometry(made: tuple[Path, CohortManifest]) -> None:
    """In patient mm the bladder is above the prostate and the rectum behind it, at every site."""
    for name, image_path, path in images(made):
        reference, image = load(path), voxels(load(image_path))
        array = voxels(reference)
        centres = [
            np.array(
                reference.TransformContinuousIndexToPhysicalPoint(
                    [float(np.mean(i)) for i in np.nonzero(array == organ)[::-1]]
                )
            )
            for organ in ORGANS
        ]
        bladder, prostate, rectum = centres
        assert bladder[2] > prostate[2] + 15, name
        assert rectum[1] > prostate[1] + 15, name
        assert np.abs(prostate).max() < 40, name
        # Urine is the brightest thing of a T2 scan.
        urine = binary_erosion(array == 1, iterations=2)
        assert np.median(image[urine]) > np.percentile(image, 80), name


def test_reader_is_off_by_seven_tenths_of_a_millimetre() -> None:
    """Volume between the two labels over the surface is the mean |offset|: 0.7 sqrt(2 / pi) mm."""
    between, surface = 0.0, 0.0
    for number in range(3):
        case = acquire_case(11, 2.0, "A", number)
        spacing = case.reference.GetSpacing()[::-1]
        truth, drawn = voxels(case.reference), voxels(case.reader)
        for organ in ORGANS:
            a, b = truth == organ, drawn == organ
            between += float(np.sum(a != b))
            smooth = gaussian_filter(a.astype(np.float64), 1.0)
            slopes = np.gradient(smooth, *spacing)
            surface += float(np.sqrt(sum(slope**2 for slope in slopes)).sum())
    assert between / surface == pytest.approx(acquisition.LABEL_NOISE_MM * 0.798, rel=0.2)


def test_edges_have_partial_volume() -> None:
    """A ball of signal 1 in nothing: its sum is its volume, and its edge lies in between."""
    axis = np.arange(-12, 13, 2.0, dtype=np.float32)
    points = (axis[None, None], axis[None, :, None], axis[:, None, None])
    painter = Painter((13, 13, 13), 2.0, 0.0)
    painter.lay_ellipsoid(points, (0.3, 0, 0), (7.0, 7.0, 7.0), 1.0)
    assert painter.signal.sum() * 8 == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.05)
    assert np.any((painter.signal > 0.2) & (painter.signal < 0.8))


# ---- the anatomy -------------------------------------------------------------------------------


def test_drawn_volumes_hold_on_the_grid() -> None:
    drawn, measured, contents = [], [], []
    axes = [np.arange(*ends, 3.0, dtype=np.float32) for ends in ((-90, 90), (-120, 90), (-70, 150))]
    points = (axes[0][None, None], axes[1][None, :, None], axes[2][:, None, None])
    for number in range(24):
        subject = draw_subject(np.random.default_rng([5, number]), 1.0)
        found = anatomy.organs(subject, points)
        drawn.append((subject.bladder_ml, subject.prostate_ml))
        measured.append([np.sum(d < 0) * 0.027 for d in (found.bladder, found.prostate)])
        contents.append(subject.rectum_content)
    bladder, prostate = np.transpose(measured)
    assert np.all((bladder >= 40) & (bladder <= 400))
    assert np.all((prostate >= 25) & (prostate <= 110))
    assert 85 < np.median(bladder) < 165
    assert 36 < np.median(prostate) < 56
    assert np.array(measured) == pytest.approx(np.array(drawn), rel=0.08)
    assert set(contents) == {"collapsed", "gas", "stool"}


def test_organs_do_not_overlap() -> None:
    axis = np.arange(-60, 60, 3.0, dtype=np.float32)
    points = (axis[None, None], axis[None, :, None], axis[:, None, None])
    subject = draw_subject(np.random.default_rng(1), 1.5)
    found = anatomy.organs(subject, points)
    inside = sum((d < 0).astype(int) for d in (found.bladder, found.prostate, found.rectum))
    assert np.max(inside) == 1


def test_distances_by_hand() -> None:
    x = np.array([0, 5, 10, 13], np.float32).reshape(1, 1, 4)
    zero = np.zeros((1, 1, 1), np.float32)
    points = (x, zero, zero)
    ball = shapes.ellipsoid(points, (0, 0, 0), (10.0, 10.0, 10.0))
    assert ball.ravel()[1:] == pytest.approx([-5, 0, 3], abs=1e-3)
    rod = shapes.capsule(points, (0, 0, 0), (8, 0, 0), 2.0)
    assert rod.ravel() == pytest.approx([-2, -2, 0, 3], abs=1e-5)
    assert shapes.box_around(points, (4, -1, -1), (11, 1, 1))[2] == slice(1, 3)
    assert not x[shapes.box_around(points, (4, 1, -1), (11, 2, 1))].size


def test_a_cohort_goes_to_no_folder_that_libraries_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"whose name is not UTF-8.*\(M\\xfcller\)"):
        make_cohort(tmp_path / "M\udcfcller" / "cohort", voxel_mm=4.0, workers=1)
    assert not list(tmp_path.iterdir())
