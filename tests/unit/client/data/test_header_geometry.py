"""Geometry by the header alone: the same to every reader, or refused in the same words."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.case import Case
from client.data.errors import ScanError
from client.data.grid_size import size_and_spacing
from client.data.image_io import read_grid, read_image

SUFFIXES = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"]


def scan() -> sitk.Image:
    """An oblique scan of 9 x 8 x 7 voxels."""
    image = sitk.GetImageFromArray(np.arange(9 * 8 * 7, dtype=np.int16).reshape(7, 8, 9))
    turn = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3)
    image.SetSpacing((0.5, 0.75, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    image.SetDirection(turn.GetMatrix())
    return image


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_grid_of_a_header_is_that_of_the_image(
    tmp_path: Path, suffix: str, compress: bool
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(scan(), str(path), useCompression=compress)
    image, grid = read_image(path, case="014"), read_grid(path, case="014")
    assert grid.size_xyz == image.GetSize() == (9, 8, 7)
    assert grid.spacing_mm_xyz == image.GetSpacing()
    assert grid.origin_mm == image.GetOrigin()
    assert grid.direction == image.GetDirection()
    case = Case(name="014", part="unlabelled", image=path, label=None)
    assert size_and_spacing(case) == (grid.size_xyz, grid.spacing_mm_xyz)


def test_the_voxels_stay_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(1).random((40, 50, 60))), path)
    path.write_bytes(path.read_bytes()[:8000])
    with pytest.raises(ScanError, match="cut short"):
        read_image(path, case="014")
    assert read_grid(path, case="014").size_xyz == (60, 50, 40)


def bad_headers(folder: Path) -> dict[str, Path]:
    for number, suffix in enumerate(SUFFIXES):  # a .nii beside its .nii.gz is another fault
        (folder / f"empty{number}{suffix}").touch()
        (folder / f"text{number}{suffix}").write_text("not a scan\n" * 100)
        sitk.WriteImage(sitk.Image((5, 4, 3, 2), sitk.sitkInt16), folder / f"four{number}{suffix}")
        sitk.WriteImage(
            sitk.Image((5, 4, 3), sitk.sitkVectorUInt8, 3), folder / f"rgb{number}{suffix}"
        )
        sitk.WriteImage(sitk.Image((5, 4, 1), sitk.sitkInt16), folder / f"thin{number}{suffix}")
    sitk.WriteImage(scan(), folder / "headless.mhd")
    (folder / "headless.raw").unlink()
    (folder / "other.png").touch()
    (folder / "other.nii.gz").write_bytes(gzip.compress(b"n+1" * 400))
    files = {path.name: path for path in folder.iterdir() if ".raw" not in path.suffixes}
    return {**files, "missing": folder / "missing.mha"}


def test_a_bad_header_is_refused_in_the_words_of_the_image(tmp_path: Path) -> None:
    for name, path in bad_headers(tmp_path).items():
        with pytest.raises(ScanError) as by_image:
            read_image(path, case="014")
        with pytest.raises(ScanError) as by_header:
            read_grid(path, case="014")
        assert str(by_header.value) == str(by_image.value), name
        assert size_and_spacing(Case(name="1", part="test", image=path, label=None)) is None
