"""Geometry by the header alone: the same to every reader, or refused in the same words."""

import gzip
import re
import zlib
from pathlib import Path

import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk

from client.data.case import Case
from client.data.errors import ScanError
from client.data.files.image_io import read_grid, read_image
from client.data.grid_size import size_and_spacing

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


META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = {packed}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\n"
    "ElementSpacing = 0.5 0.75 3\nDimSize = {size}\nElementType = MET_SHORT\n"
    "ElementDataFile = LOCAL\n"
)
NRRD = (
    "NRRD0005\ntype: int16\ndimension: 3\nsizes: {size}\nspace: LPS\nendian: little\n"
    "space directions: (0.5,0,0) (0,0.75,0) (0,0,3)\nencoding: {packed}\nspace origin: (1,2,3)\n\n"
)
PACK = {
    ("a.mha", "False"): bytes,
    ("b.mha", "True"): zlib.compress,
    ("c.nrrd", "raw"): bytes,
    ("d.nrrd", "gzip"): gzip.compress,
}


def with_voxels(folder: Path, kind: tuple[str, str], voxels: bytes, size: str = "9 8 7") -> Path:
    name, packed = kind
    header = (META if name.endswith(".mha") else NRRD).format(packed=packed, size=size)
    stored = PACK[kind](voxels)
    if packed == "True":
        header = header.replace("True\nT", f"True\nCompressedDataSize = {len(stored)}\nT")
    (folder / name).write_bytes(header.encode() + stored)
    return folder / name


@pytest.mark.parametrize("kind", PACK)
def test_a_file_holds_the_voxels_of_its_header(tmp_path: Path, kind: tuple[str, str]) -> None:
    """ITK reads a whole stream of half the voxels of a MetaImage without a word, the rest as 0."""
    voxels = sitk.GetArrayFromImage(scan()).tobytes()
    read = read_image(with_voxels(tmp_path, kind, voxels), case="014")
    assert sitk.GetArrayFromImage(read).astype(np.int16).tobytes() == voxels
    for spoilt, said in (
        (voxels[:504], "is cut short: 504 of 1008 bytes of voxels"),
        (voxels + voxels, "holds 2016 bytes of voxels, its header says 1008: size or type"),
        (voxels + voxels[:144], "holds 1152 bytes of voxels, its header says 1008"),
    ):
        with pytest.raises(ScanError, match=said):
            read_image(with_voxels(tmp_path, kind, spoilt), case="014")
    with pytest.raises(ScanError, match="is cut short: 1008 of 54000000000000 bytes"):
        read_image(with_voxels(tmp_path, kind, voxels, "30000 30000 30000"), case="014")


@pytest.mark.parametrize("line", ["", "CompressedDataSize = 99\n", "CompressedDataSize = 0\n"])
def test_a_compressed_meta_image_says_how_long_it_is(tmp_path: Path, line: str) -> None:
    """Else ITK inflates the header, or a part of the voxels, and returns the rest as it was."""
    voxels = sitk.GetArrayFromImage(scan()).tobytes()
    path = with_voxels(tmp_path, ("b.mha", "True"), voxels)
    content = re.sub(b"CompressedDataSize.*\n", line.encode(), path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"has CompressedDataSize \w+ in its header, must be \d+"):
        read_image(path, case="014")


@pytest.mark.parametrize("encoding", ["raw", "RAW", "gzip", "gz", "hex", "ascii", "text", "txt"])
def test_every_encoding_of_nrrd_reads_the_same(tmp_path: Path, encoding: str) -> None:
    array = sitk.GetArrayFromImage(scan())
    written = {
        "raw": array.tobytes(),
        "gzi": gzip.compress(array.tobytes()),
        "gz": gzip.compress(array.tobytes()),
        "hex": array.tobytes().hex().encode(),
    }.get(encoding[:3].lower(), " ".join(map(str, array.ravel())).encode())
    path = tmp_path / "a.nrrd"
    path.write_bytes(NRRD.format(packed=encoding, size="9 8 7").encode() + written)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_image(path, case="1")), array)
    assert read_grid(path, case="1").spacing_mm_xyz == (0.5, 0.75, 3.0)


TEXT_FAULTS = {
    "META": {
        "ElementSpacing = 0.5 0.75 3": {
            "elementspacing = 0.5 0.75 3": r"voxels of \(0.5, 0.75, 3\) mm by its header, of \(1",
            "ElementSpacing = 0,5 0,75 3": r"has elementspacing \(0 5 0 75 3\)",
            "ElementSpacing = 0.5 0.75 3\nDistanceUnits = um": "has the unit um in its header",
        },
        "Offset = 1 2 3": {
            "Offset = 1 2": r"has offset \(1 2\) in its header, must be 3 numbers",
            "Offset = 1 2 3\nOffset = 9 9 9": "has offset twice in its header",
            "Offset = 1 2 3\nPosition = 9 9 9": r"offset \(1, 2, 3\), position \(9, 9, 9\)",
        },
        "BinaryData = True": {"BinaryData = False": "has its voxels written as text"},
    },
    "NRRD": {
        "space origin: (1,2,3)": {
            "space origin: (1,2,3)\nspace origin: (9,9,9)": "cannot be read as .nrrd",
        },
        "space: LPS\n": {
            'space: LPS\nspace units: "m" "m" "m"\n': "has the unit m in its header",
        },
        "space directions: (0.5,0,0) (0,0.75,0) (0,0,3)": {
            "space directions: (0.5,0,0) (0,0.75,0) none": "must be 9 numbers",
            "space directions: (0.5,0,0) (0.3,0.75,0) (0,0,3)": "is sheared: 68.2 degrees",
        },
        "raw": {"bzip2": "has its voxels compressed by bzip2", "bz2": "compressed by bzip2"},
    },
}


@pytest.mark.parametrize(
    ("kind", "old", "new", "said"),
    [
        (kind, old, new, said)
        for kind, lines in TEXT_FAULTS.items()
        for old, changes in lines.items()
        for new, said in changes.items()
    ],
)
def test_a_text_header_says_one_geometry(
    tmp_path: Path, kind: str, old: str, new: str, said: str
) -> None:
    made = META.format(packed="False", size="9 8 7")
    if kind == "NRRD":
        made = NRRD.format(packed="raw", size="9 8 7")
    assert old in made
    path = tmp_path / ("a.mha" if kind == "META" else "a.nrrd")
    path.write_bytes(made.replace(old, new, 1).encode() + sitk.GetArrayFromImage(scan()).tobytes())
    for read in (read_image, read_grid):
        with pytest.raises(ScanError, match=said):
            read(path, case="014")


@pytest.mark.parametrize(
    ("space", "signs", "noted"),
    [
        ("space: right-anterior-superior", (-1, -1, 1), False),
        ("space: RAS", (-1, -1, 1), False),
        ("space: LAS", (1, -1, 1), False),
        ("space: left-posterior-superior", (1, 1, 1), False),
        ("space: 3D-right-handed", (1, 1, 1), True),
        ("space dimension: 3", (1, 1, 1), True),
    ],
)
def test_spaces_of_nrrd(tmp_path: Path, space: str, signs: tuple[int, ...], noted: bool) -> None:
    made = NRRD.format(packed="raw", size="9 8 7").replace("space: LPS", space)
    path = tmp_path / "a.nrrd"
    path.write_bytes(made.encode() + sitk.GetArrayFromImage(scan()).tobytes())
    notes: list[str] = []
    image = read_image(path, case="014", note=notes.append)
    assert image.GetOrigin() == tuple(np.multiply(signs, (1, 2, 3)))
    assert image.GetDirection() == tuple(np.diag(signs).ravel())
    assert [("names no anatomical" in line) for line in notes] == [True] * noted


def test_a_left_handed_scan_is_one(tmp_path: Path) -> None:
    image = scan()
    image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))
    for suffix in SUFFIXES:
        sitk.WriteImage(image, tmp_path / f"{suffix[1:]}{suffix}")
        read = read_image(tmp_path / f"{suffix[1:]}{suffix}", case="014")
        np.testing.assert_allclose(read.GetDirection(), image.GetDirection(), atol=1e-6)


@pytest.mark.parametrize(
    ("spacing_mm", "said"),
    [
        ((500.0, 500.0, 500.0), "has voxels of (500, 500, 500) mm"),
        ((0.0005, 0.0007, 0.003), "has voxels of (0.0005, 0.0007, 0.003) mm"),
        ((0.05, 0.05, 0.4), "has a field of view of (0.45, 0.4, 2.8) mm"),
        ((0.05, 0.1, 0.8), ""),
        ((0.5, 0.5, 50.0), ""),
        ((0.5, 0.5, 51.0), "has voxels of (0.5, 0.5, 51) mm"),
    ],
)
def test_sizes_of_no_person(tmp_path: Path, spacing_mm: tuple[float, ...], said: str) -> None:
    image = scan()
    image.SetSpacing(spacing_mm)
    for suffix in SUFFIXES:
        path = tmp_path / f"{suffix[1:]}{suffix}"
        sitk.WriteImage(image, path)
        if not said:
            assert read_image(path, case="014").GetSize() == read_grid(path, case="014").size_xyz
            continue
        for read in (read_image, read_grid):
            with pytest.raises(ScanError) as caught:
                read(path, case="014")
            assert caught.value.problem.rule == "geometry"
            assert said in str(caught.value)
            assert str(caught.value).endswith("; write millimetres")
        assert size_and_spacing(Case(name="1", part="test", image=path, label=None)) is None


def test_a_series_has_the_grid_of_its_scan_or_none(tmp_path: Path) -> None:
    made = ph.Phantom(voxels=sitk.GetArrayFromImage(scan()).astype(np.uint16))
    ph.write_classic(tmp_path / "a", made)
    image, grid = (read(tmp_path / "a", case="014") for read in (read_image, read_grid))
    assert grid.size_xyz == image.GetSize() == (9, 8, 7)
    assert grid.spacing_mm_xyz == image.GetSpacing()
    assert grid.direction == image.GetDirection()
    case = Case(name="014", part="unlabelled", image=tmp_path / "a", label=None)
    assert size_and_spacing(case) == (grid.size_xyz, grid.spacing_mm_xyz)

    def in_micrometres(header: ph.Dataset, _: int) -> None:
        header.PixelSpacing = ["700", "500"]

    ph.write_classic(tmp_path / "b", made, edit=in_micrometres)
    for read in (read_image, read_grid):
        with pytest.raises(
            ScanError, match=r"has voxels of \(500, 700, 3\) mm, a scan of a person"
        ):
            read(tmp_path / "b", case="014")
    case = Case(name="014", part="unlabelled", image=tmp_path / "b", label=None)
    assert size_and_spacing(case) is None


@pytest.mark.parametrize(
    ("kind", "old", "new", "said"),
    [
        ("a.mha", "ElementSpacing", "ElementSize", "no ElementSpacing in its header; its Element"),
        (
            "a.mha",
            "ElementSp",
            "ElementSize = 1 1 1\nElementSp",
            "has ElementSize (1, 1, 1) mm beside",
        ),
        ("a.mha", "TransformMatrix = 1 0 0 0 1 0 0 0 1\n", "", "has no TransformMatrix"),
        ("a.mha", "Offset = 1 2 3\n", "", "has no origin in its header; its first voxel is put"),
        ("a.nrrd", "space origin: (1,2,3)\n", "", "has no origin in its header"),
    ],
)
def test_what_a_text_header_leaves_open_is_noted(
    tmp_path: Path, kind: str, old: str, new: str, said: str
) -> None:
    made = META.format(packed="False", size="9 8 7")
    if kind == "a.nrrd":
        made = NRRD.format(packed="raw", size="9 8 7")
    assert old in made
    (tmp_path / kind).write_bytes(
        made.replace(old, new, 1).encode() + sitk.GetArrayFromImage(scan()).tobytes()
    )
    notes: list[str] = []
    read = read_image(tmp_path / kind, case="014", note=notes.append)
    assert read.GetSpacing() == (0.5, 0.75, 3.0)
    [line] = notes
    assert line.startswith("its scan ") and said in line
