"""A file that is written is whole, or an error that says why; nothing half written stays."""

import errno
import gzip
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.errors import ScanError
from client.data.files import writing
from client.data.files.image_io import write_label_map
from client.data.files.writing import write_image
from client.segmenting.results import write_confidence

FULL = os.strerror(errno.ENOSPC).lower()
SUFFIXES = [".nii.gz", ".nii", ".mha", ".nrrd"]
TILT = (1.0, 0.0, 0.0, 0.0, 0.8, -0.6, 0.0, 0.6, 0.8)


def image_of(kind: type[np.generic]) -> sitk.Image:
    array = np.random.default_rng(1).integers(0, 100, (6, 20, 31)).astype(kind)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.61, 3.3))
    image.SetOrigin((-10.25, 20.0, 5.0))
    image.SetDirection(TILT)
    return image


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of which some 50 are free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts a file system")
    try:
        (disk / "fill").write_bytes(b"0" * 200 * 1024)
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_has_the_bytes_that_itk_writes(
    tmp_path: Path, suffix: str, kind: type[np.generic]
) -> None:
    image = image_of(kind)
    sitk.WriteImage(image, str(tmp_path / f"itk{suffix}"))
    write_image(image, tmp_path / f"own{suffix}")
    read = gzip.decompress if suffix == ".nii.gz" else bytes
    own, itk = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("own", "itk"))
    assert read(own) == read(itk)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_full_disk_is_told_and_leaves_nothing(small_disk: Path, suffix: str) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (60, 100, 100)).astype(np.uint8)
    grid = sitk.Image([100, 100, 60], sitk.sitkUInt8)
    with pytest.raises(ScanError, match=FULL):
        write_label_map(labels, grid, small_disk / f"l{suffix}")
    assert [path.name for path in small_disk.iterdir()] == ["fill"]


def test_confidence_on_a_full_disk(small_disk: Path) -> None:
    confidence = np.random.default_rng(0).random((60, 100, 100), np.float32)
    with pytest.raises(ScanError, match=FULL) as caught:
        write_confidence(
            confidence, sitk.Image([100, 100, 60], sitk.sitkUInt8), small_disk / "c.nii.gz"
        )
    assert "c.nii.gz" not in caught.value.problem.anonymous
    assert [path.name for path in small_disk.iterdir()] == ["fill"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 10, 200])
def test_what_itk_cuts_short_in_silence_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kept: int
) -> None:
    whole = sitk.WriteImage

    def short(image: sitk.Image, file: str, useCompression: bool = False) -> None:
        whole(image, file, useCompression)
        os.truncate(file, kept)

    monkeypatch.setattr(writing.sitk, "WriteImage", short)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_image(image_of(np.uint8), tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


def test_an_older_file_stays_where_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    write_image(image_of(np.uint8), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(writing, "_write_parts", full)
    with pytest.raises(ScanError, match=rf"cannot be written \({FULL}\)"):
        write_label_map(image_of(np.uint8), image_of(np.uint8), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
