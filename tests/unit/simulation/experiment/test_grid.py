"""Spacing and patch from what is in a folder."""

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from asdnet_models.network_config import NetworkConfig
from protocol.config.presets import preset
from protocol.config.study import ProtocolError
from simulation.experiment.grid import (
    largest_stride,
    median_scan,
    on_shared_grid,
    plan_grid,
    possible_methods,
)
from simulation.experiment.methods import METHODS, Method

EIGHT, SIXTEEN = (8, 8, 8), (16, 16, 16)


def scans(
    folder: Path,
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    order: tuple[int, int, int] = (0, 1, 2),
) -> list[Path]:
    paths = []
    for number in range(3):
        image = sitk.Image([n + number for n in size], sitk.sitkInt16)
        image.SetSpacing(spacing)
        paths.append(folder / f"{number}.nii.gz")
        sitk.WriteImage(sitk.PermuteAxes(image, order), str(paths[-1]))
    return paths


def test_small_scans_keep_their_spacing(tmp_path: Path) -> None:
    # The hippocampus of the decathlon: about 35 x 50 x 35 voxels of 1 mm.
    grid = plan_grid("quick", scans(tmp_path, (34, 49, 34), (1.0, 1.0, 1.0)), EIGHT)
    assert grid == ((1.0, 1.0, 1.0), (32, 48, 32))


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_large_scans_are_coarsened_to_the_target(tmp_path: Path, name: str) -> None:
    grid = plan_grid(name, scans(tmp_path, (320, 320, 60), (0.6, 0.6, 3.0)), EIGHT)  # type: ignore[arg-type]
    assert grid is not None
    spacing, edges = grid
    extent = np.array([321 * 0.6, 321 * 0.6, 61 * 3.0])
    target = {"smoke": 9_000, "quick": 65_000}[name]
    assert math.prod(extent / np.array(spacing)) == pytest.approx(target, rel=0.02)
    # Only as coarse as it must be: the finest axes first.
    assert spacing[0] == spacing[1]
    assert spacing[2] == pytest.approx(max(3.0, spacing[0]))
    assert all(edge % 8 == 0 and edge >= 16 for edge in edges)
    for edge, mm, step in zip(edges, extent, spacing, strict=True):
        assert 0 <= mm / step - edge < 8


def test_thick_slices_stay_as_they_are(tmp_path: Path) -> None:
    grid = plan_grid("quick", scans(tmp_path, (256, 256, 24), (0.5, 0.5, 6.0)), EIGHT)
    assert grid is not None
    assert grid[0][2] == 6.0
    assert 0.5 < grid[0][0] < 6.0


def test_axes_are_the_patients(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = plan_grid("quick", scans(tmp_path / "a", (20, 30, 40), (1.0, 1.5, 2.0)), EIGHT)
    turned = plan_grid(
        "quick", scans(tmp_path / "b", (20, 30, 40), (1.0, 1.5, 2.0), (2, 0, 1)), EIGHT
    )
    assert plain == turned == ((1.0, 1.5, 2.0), (16, 24, 40))


def test_an_oblique_scan_has_each_axis_once(tmp_path: Path) -> None:
    """Of a scan between two planes two axes have their largest cosine along the same one."""
    half = math.sqrt(0.5)
    first = np.array([half, 0.5, 0.5])
    second = np.array([-half, 0.5, 0.5])
    direction = np.column_stack([first, second, np.cross(first, second)])
    assert sorted(np.abs(direction).argmax(0)) != [0, 1, 2]
    image = sitk.Image([20, 30, 40], sitk.sitkInt16)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "oblique.mha"))
    scans = median_scan([tmp_path / "oblique.mha"])
    upright = sitk.DICOMOrient(image, "LPS")
    assert scans.spacing_mm == pytest.approx(upright.GetSpacing())
    assert scans.extent_mm == pytest.approx(
        np.multiply(upright.GetSpacing(), upright.GetSize()).tolist()
    )


def test_a_tiny_scan_gets_the_smallest_patch(tmp_path: Path) -> None:
    grid = plan_grid("quick", scans(tmp_path, (6, 6, 6), (1.0, 1.0, 1.0)), EIGHT)
    assert grid == ((1.0, 1.0, 1.0), (16, 16, 16))


def test_the_papers_grid_is_fixed(tmp_path: Path) -> None:
    assert plan_grid("paper", scans(tmp_path, (8, 8, 8), (1.0, 1.0, 1.0)), EIGHT) is None


def chosen(*names: str) -> dict[str, Method]:
    return {name: METHODS[name] for name in names}


def test_the_largest_stride_shapes_the_patch(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((40, 60, 60), np.int16))
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(path))
    base = preset("smoke")
    assert largest_stride([METHODS["SVNet"], METHODS["ASDNet"]], base) == EIGHT
    assert largest_stride([METHODS["SVNet"], METHODS["VNet"]], base) == SIXTEEN
    eight, sixteen = (plan_grid("smoke", [path], stride) for stride in (EIGHT, SIXTEEN))
    assert eight is not None and sixteen is not None
    assert eight[0] == sixteen[0]
    # 60 and 40 voxels of 1 mm, coarsened to 9000: 23.8 and 15.9 voxels of 2.52 mm.
    assert eight[1] == (16, 16, 16) and sixteen[1] == (16, 16, 16)
    fine = plan_grid("quick", [path], SIXTEEN)
    assert fine == (plan_grid("quick", [path], EIGHT)[0], (32, 32, 16))  # type: ignore[index]
    shared = on_shared_grid(base, chosen("SVNet", "VNet"), [path], "quick")
    assert (shared.spacing_mm, shared.patch_voxels) == fine
    assert shared.method == base.method


def test_each_axis_has_its_own_stride(tmp_path: Path) -> None:
    flat = NetworkConfig(strides=((2, 2, 1), (2, 2, 1), (2, 2, 2)))
    base = preset("smoke").model_copy(update={"network": flat})
    assert largest_stride([METHODS["SVNet"]], base) == (8, 8, 2)
    # V-Net repeats the last down-sampling; a method that is not possible is named elsewhere.
    broken = Method(changes={"network": {"width": 0}})
    assert largest_stride([METHODS["VNet"], broken], base) == (16, 16, 4)
    paths = scans(tmp_path, (27, 27, 21), (1.0, 1.0, 3.0))
    assert plan_grid("quick", paths, (8, 8, 2)) == ((1.0, 1.0, 3.0), (24, 24, 22))


def test_a_method_that_does_not_fit_a_fixed_grid_is_named() -> None:
    base = preset("smoke").model_copy(update={"patch_voxels": (24, 24, 16)})
    with pytest.raises(ProtocolError, match="method VNet: patch_voxels: must be multiples of 16"):
        possible_methods(base, chosen("SVNet", "VNet"))
    assert tuple(possible_methods(base, chosen("SVNet", "ASDNet"))[0]) == ("SVNet", "ASDNet")
    assert on_shared_grid(base, chosen("SVNet", "VNet"), [], None) == base
