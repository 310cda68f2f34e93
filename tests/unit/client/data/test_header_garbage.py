"""Garbage in any header of a file is read, or refused in plain words; it never ends the process."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.errors import ScanError
from client.data.files.image_io import load_numbers, read_grid, read_image


def whole(suffix: str) -> bytes:
    image = sitk.GetImageFromArray(np.arange(1, 505, dtype=np.int16).reshape(7, 8, 9))
    image.SetSpacing((0.5, 0.75, 3.0))
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(image, f"{folder}/a{suffix}")
        return Path(f"{folder}/a{suffix}").read_bytes()


FILES = {suffix: whole(suffix) for suffix in (".nii", ".mha", ".nrrd")}
garbage = st.binary(min_size=1, max_size=4) | st.text("0123456789 .-e(),:=\n", min_size=1).map(
    str.encode
)


@settings(max_examples=200)
@given(st.sampled_from([*FILES]), st.integers(0, 347), garbage)
def test_garbage(suffix: str, at: int, spoilt: bytes) -> None:
    content = FILES[suffix][:at] + spoilt + FILES[suffix][at + len(spoilt) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        for read in (
            lambda: read_grid(path, case="014"),
            lambda: read_image(path, case="014"),
            lambda: load_numbers(path, f"case 014: image {path.name}"),
        ):
            try:
                read()
            except ScanError as error:
                assert str(error).startswith("case 014: image a.")
                assert folder not in str(error)


@pytest.mark.parametrize("count", ["714", "-3", "11", "3x", "", "3\nNDims = 714"])
def test_dimensions_that_would_end_the_process(tmp_path: Path, count: str) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(FILES[".mha"].replace(b"NDims = 3", f"NDims = {count}".encode()))
    for read in (read_grid, read_image):
        with pytest.raises(ScanError, match=r"has NDims .* in its header, must be 3"):
            read(path, case="014")
