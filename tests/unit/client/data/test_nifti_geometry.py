"""NIfTI geometry as nibabel has it: used where every reading agrees, refused elsewhere."""

import gzip
import itertools
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from client.data.errors import ScanError
from client.data.files.geometry import put_on_grid, same_grid_error
from client.data.files.image_io import load_numbers, read_grid, read_image, write_label_map
from client.segmenting.results import write_confidence

Array = NDArray[Any]
SIZE = (9, 8, 7)
VOXELS = np.arange(9 * 8 * 7, dtype=np.int16).reshape(SIZE)
CORNERS = np.array([*itertools.product(*((0, n - 1) for n in SIZE))])


def affine(turn: tuple[float, ...], spacing_mm: tuple[float, ...], origin_mm: Any) -> Array:
    found = np.eye(4)
    found[:3, :3] = Rotation.from_rotvec(turn).as_matrix() * spacing_mm
    found[:3, 3] = origin_mm
    return found


def write(path: Path, matrix: Array | None, quaternion: Array | None, **fields: Any) -> Path:
    """A NIfTI file of two geometries, as nibabel writes them; then fields of the header."""
    known = matrix if matrix is not None else quaternion
    image = nib.Nifti1Image(VOXELS, known)
    image.set_qform(quaternion if quaternion is not None else known, int(quaternion is not None))
    image.header.set_sform(matrix, int(matrix is not None))
    for name, value in {"vox_offset": 352, **fields}.items():
        image.header[name] = value
    image.header.set_slope_inter(1, 0)
    path.write_bytes(image.header.binaryblock + bytes(4) + VOXELS.tobytes("F"))
    return path


def refused(path: Path) -> str:
    """The message for a scan, which is the same for its header and for a label."""
    messages = set()
    for read in (
        lambda: read_image(path, case="014"),
        lambda: read_grid(path, case="014"),
        lambda: load_numbers(path, f"case 014: image {path.name}"),
    ):
        with pytest.raises(ScanError) as caught:
            read()
        assert caught.value.problem.rule == "geometry"
        assert str(path.parent) not in str(caught.value)
        messages.add(str(caught.value))
    [message] = messages
    return message


def places_mm(image: sitk.Image) -> Array:
    """The corners in the world, as nibabel counts it: RAS."""
    found = [image.TransformContinuousIndexToPhysicalPoint(c.astype(float)) for c in CORNERS]
    return np.array(found) * (-1, -1, 1)


angle = st.floats(-np.pi, np.pi)
turns = st.tuples(angle, angle, angle)
spacings = st.tuples(*[st.floats(0.8, 9.0)] * 3)
origins = st.tuples(*[st.floats(-900, 900)] * 3)


@settings(max_examples=60)
@given(turns, spacings, origins, st.booleans(), st.sampled_from(("both", "matrix", "quaternion")))
@example((np.pi, 0.0, 0.0), (0.5, 0.5, 3.0), (1.0, 2.0, 3.0), False, "quaternion")
@example((3.14, 0.02, -0.01), (0.5, 0.5, 3.0), (90.0, 80.0, 70.0), True, "quaternion")
def test_what_rounds_is_used_and_lies_where_nibabel_puts_it(
    turn: Any, spacing_mm: Any, origin_mm: Any, mirrored: bool, forms: str
) -> None:
    made = affine(turn, spacing_mm, origin_mm) @ np.diag([1, 1, -1 if mirrored else 1, 1])
    with tempfile.TemporaryDirectory() as folder:
        path = write(
            Path(folder) / "a.nii",
            None if forms == "quaternion" else made,
            None if forms == "matrix" else made,
        )
        image, placed = read_image(path, case="014"), nib.load(path).affine
    expected = CORNERS @ placed[:3, :3].T + placed[:3, 3]
    # ITK takes the matrix, where there is one; a quaternion of 32-bit floats is less exact.
    reach_mm = np.linalg.norm(np.array(SIZE) * spacing_mm)
    tolerance_mm = (1.2e-3 if forms == "quaternion" else 1e-5) * reach_mm + 1e-3
    np.testing.assert_allclose(places_mm(image), expected, atol=tolerance_mm)
    true = CORNERS @ made[:3, :3].T + made[:3, 3]
    np.testing.assert_allclose(places_mm(image), true, atol=1e-3 * reach_mm + 1e-3)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), VOXELS.transpose())


def scaled(made: Array, share: float, axis: int) -> Array:
    made[:3, axis] *= 1 + share
    return made


def turned(made: Array, share: float, axis: int) -> Array:
    made[:3, :3] = Rotation.from_rotvec(np.eye(3)[axis] * share).as_matrix() @ made[:3, :3]
    return made


def sheared(made: Array, share: float, axis: int) -> Array:
    unit = made[:3, axis] / np.linalg.norm(made[:3, axis])
    other = (axis + 1) % 3
    made[:3, other] += unit * share * np.linalg.norm(made[:3, other])
    return made


def shifted(made: Array, share: float, axis: int) -> Array:
    edge_mm = np.linalg.norm(made[:3, :3], axis=0).min()
    made[axis, 3] += 100 * share * edge_mm
    return made


def mirrored(made: Array, share: float, axis: int) -> Array:
    made[:3, axis] *= -1
    return made


CHANGES = {
    scaled: "voxels of",
    turned: "is turned by",
    sheared: "is sheared: ",
    shifted: "away from",
    mirrored: "is mirrored against",
}


@settings(max_examples=80)
@given(turns, spacings, st.sampled_from([*CHANGES]), st.floats(0.003, 0.5), st.integers(0, 2))
def test_what_is_more_than_rounding_is_refused(
    turn: Any, spacing_mm: Any, change: Callable[..., Array], share: float, axis: int
) -> None:
    made = affine(turn, spacing_mm, (10, 20, 30))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "a.nii", change(made.copy(), share, axis), made)
        assert CHANGES[change] in refused(path)


THICK = affine((0, 0, 0), (1.5, 1.5, 8), (0, 0, 0))


def test_a_matrix_that_contradicts_the_voxel_sizes_is_said_with_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", THICK, None, pixdim=[1, 1, 1, 1, 0, 0, 0, 0])
    assert refused(path) == (
        "case 014: image a.nii says two geometries: voxels of (1.5, 1.5, 8) mm by its matrix"
        " (sform), of (1, 1, 1) mm by its voxel sizes (pixdim); set both to the right one, or"
        " export it again"
    )


@pytest.mark.parametrize(
    ("codes", "told"),
    [((1, 2), True), ((1, 3), True), ((1, 4), True), ((1, 1), False), ((2, 2), False)],
)
def test_a_scan_that_was_aligned_on_purpose(
    tmp_path: Path, codes: tuple[int, int], told: bool
) -> None:
    """As SPM writes it; either remedy of the message makes it one geometry."""
    moved = affine((0, 0, 0.1), (1.5, 1.5, 8), (3, 0, 0))
    fields = dict(zip(("qform_code", "sform_code"), codes, strict=True))
    message = refused(write(tmp_path / "a.nii", moved, THICK, **fields))
    assert ("set qform_code to 0 or copy sform into qform, in image and label" in message) == told
    for quaternion, code in ((THICK, 0), (moved, codes[0])):
        fields["qform_code"] = code
        path = write(tmp_path / "a.nii", moved, quaternion, **fields)
        np.testing.assert_allclose(nib.load(path).affine, moved, atol=1e-5)
        assert read_image(path, case="014").GetOrigin()[0] == pytest.approx(-3)


@pytest.mark.parametrize("forms", [(THICK, THICK), (THICK, None), (None, THICK)])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pixdim": [1, 0, 1.5, 8, 0, 0, 0, 0]}, "has voxels of (0, 1.5, 8) mm by its voxel"),
        ({"pixdim": [1, 1.5, -1.5, 8, 0, 0, 0, 0]}, "has voxels of (1.5, -1.5, 8) mm by its"),
        ({"xyzt_units": 1}, "has the metre as its unit (xyzt_units), which some readers heed"),
        ({"xyzt_units": 11}, "voxels of (0.0015, 0.0015, 0.008) or (1.5, 1.5, 8) mm; write"),
        ({"sform_code": 7}, "has the sform_code 7, must be 0 to 5"),
        ({"qform_code": -1}, "has the qform_code -1, must be 0 to 5"),
    ],
)
def test_fields_that_no_geometry_has(
    tmp_path: Path, forms: tuple[Any, Any], fields: dict[str, Any], said: str
) -> None:
    assert said in refused(write(tmp_path / "a.nii", *forms, **fields))


def test_a_quaternion_that_is_none(tmp_path: Path) -> None:
    for number, matrix in enumerate((THICK, None)):
        path = write(tmp_path / f"{number}.nii", matrix, THICK, quatern_b=0.9, quatern_c=0.9)
        assert "has a quaternion (qform) of length 1.273, must be 1 at most" in refused(path)
        sizes = [2, 1.5, 1.5, 8, 0, 0, 0, 0]
        path = write(tmp_path / f"q{number}.nii", matrix, THICK, pixdim=sizes)
        assert "has the handedness 2 (qfac, pixdim[0]), must be 1 or -1" in refused(path)
        sizes = [-1, 1.5, 1.5, 8, 0, 0, 0, 0]
        if matrix is not None:
            path = write(tmp_path / f"m{number}.nii", matrix, THICK, pixdim=sizes)
            assert "is mirrored against its quaternion (qform)" in refused(path)


def test_a_handedness_of_0_is_1(tmp_path: Path) -> None:
    """nifti1.h says so."""
    path = write(tmp_path / "a.nii", None, THICK, pixdim=[0, 1.5, 1.5, 8, 0, 0, 0, 0])
    expected = CORNERS @ THICK[:3, :3]
    np.testing.assert_allclose(places_mm(read_image(path, case="014")), expected, atol=1e-5)


def test_a_matrix_whose_axes_lie_in_a_plane(tmp_path: Path) -> None:
    flat = THICK.copy()
    flat[:3, 0] = 0
    for number, quaternion in enumerate((THICK, None)):
        path = write(tmp_path / f"{number}.nii", THICK, quaternion)
        content = bytearray(path.read_bytes())
        struct.pack_into("<12f", content, 280, *flat[:3].ravel())
        path.write_bytes(content)
        assert "has axes that lie in one plane by its matrix (sform)" in refused(path)


def test_a_matrix_that_is_a_little_off_is_read_as_the_nearest_rotation(tmp_path: Path) -> None:
    """ITK refuses such a file, or, told to permit it, turns it the wrong way round."""
    made = affine((0.4, -0.3, 0.8), (1.5, 1.5, 8), (5, 6, 7))
    path = write(tmp_path / "a.nii", sheared(made, 5e-4, 1), None)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(path)
    placed = nib.load(path).affine
    expected = CORNERS @ placed[:3, :3].T + placed[:3, 3]
    image, grid = read_image(path, case="014"), read_grid(path, case="014")
    np.testing.assert_allclose(places_mm(image), expected, atol=0.02)
    assert grid.direction == image.GetDirection()
    axes = np.reshape(image.GetDirection(), (3, 3))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)


def test_codes_of_0_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", THICK, THICK, qform_code=0, sform_code=0)
    notes: list[str] = []
    image = read_image(path, case="014", note=notes.append)
    assert image.GetSpacing() == (1.5, 1.5, 8.0)
    [line] = notes
    assert "is placed by its voxel sizes alone, as its form codes are 0" in line
    notes.clear()
    read_image(write(tmp_path / "b.nii", THICK, THICK), case="014", note=notes.append)
    assert notes == []


@pytest.mark.parametrize(("shape", "intent"), [((1,), 0), ((1, 1), 0), ((1, 1), 1007)])
def test_dimensions_of_one_are_none(tmp_path: Path, shape: tuple[int, ...], intent: int) -> None:
    image = nib.Nifti1Image(VOXELS.reshape((*SIZE, *shape)), THICK)
    image.header["intent_code"] = intent
    nib.save(image, tmp_path / "a.nii.gz")
    read = read_image(tmp_path / "a.nii.gz", case="014")
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(read), VOXELS.transpose())


def test_bytes_in_the_other_order_say_the_same(tmp_path: Path) -> None:
    header = nib.Nifti1Image(VOXELS, THICK).header.as_byteswapped(">")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + VOXELS.astype(">i2").tobytes("F")
    (tmp_path / "a.nii").write_bytes(content)
    image = read_image(tmp_path / "a.nii", case="014")
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), VOXELS.transpose())
    header["pixdim"][1:4] = 1
    (tmp_path / "b.nii").write_bytes(header.binaryblock + content[348:])
    assert "voxels of (1.5, 1.5, 8) mm by its matrix (sform), of (1, 1, 1)" in refused(
        tmp_path / "b.nii"
    )


OBLIQUE = affine((0.4, -0.3, 2.8), (1.5, 1.5, 8), (5, 6, 7))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("matrix", "quaternion"),
    [(OBLIQUE, OBLIQUE), (OBLIQUE, None), (None, OBLIQUE), (None, None)],
)
def test_what_is_predicted_lies_on_the_scan_for_every_reader(
    tmp_path: Path, matrix: Array | None, quaternion: Array | None, suffix: str
) -> None:
    known = {} if matrix is not None or quaternion is not None else {"sform_code": 0}
    path = write(tmp_path / "scan.nii", THICK if known else matrix, quaternion, **known)
    scan = read_image(path, case="014")
    write_label_map(np.ones(SIZE[::-1], np.uint8), scan, tmp_path / f"label{suffix}")
    write_confidence(np.ones(SIZE[::-1], np.float32), scan, tmp_path / "confidence.nii.gz")
    placed = nib.load(path).affine
    for name in (f"label{suffix}", "confidence.nii.gz"):
        made = nib.load(tmp_path / name)
        np.testing.assert_allclose(made.get_fdata(), 1, atol=1e-6)
        # As far as two readers of one quaternion differ.
        np.testing.assert_allclose(made.affine, placed, atol=0.03)
        by_matrix, code = made.header.get_sform(coded=True)
        by_quaternion, other_code = made.header.get_qform(coded=True)
        assert code == other_code == (0 if known else 1)
        if not known:
            np.testing.assert_allclose(by_quaternion, by_matrix, atol=0.01)
        numbers = load_numbers(tmp_path / name, "label") if "label" in name else None
        assert numbers is None or same_grid_error(numbers, scan) is None


def test_where_voxels_begin_and_how_many_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", THICK, THICK, vox_offset=0)  # 348 to ITK, 352 to nibabel
    with pytest.raises(ScanError, match="its voxels begin at byte 0, must be 352 or more"):
        read_image(path, case="014")
    path = write(tmp_path / "b.nii", THICK, THICK, bitpix=8)
    whole = path.read_bytes()
    assert read_image(path, case="014").GetSize() == SIZE
    for content, said in (
        (whole[:-504], "is cut short: 504 of 1008 bytes of voxels"),
        (whole + bytes(1008), "holds 2016 bytes of voxels, its header says 1008"),
    ):
        path.write_bytes(content)
        with pytest.raises(ScanError, match=said):
            read_image(path, case="014")
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(ScanError, match=r"is compressed, unlike its name; name it \.nii\.gz"):
        read_image(path, case="014")
    path.unlink()
    packed = path.with_name("b.nii.gz")
    packed.write_bytes(whole)
    with pytest.raises(ScanError, match=r"is not compressed, unlike its name; name it \.nii"):
        read_grid(packed, case="014")


@pytest.mark.parametrize("of_scan", [True, False])
def test_a_label_with_a_place_on_a_scan_without_one(tmp_path: Path, of_scan: bool) -> None:
    """Resampling, the hint elsewhere, would put it on other voxels than it was drawn on."""
    without = write(tmp_path / "a.nii", THICK, THICK, qform_code=0, sform_code=0)
    centred = affine((0, 0, 0), (1.5, 1.5, 8), nib.load(without).affine[:3, 3])
    placed = write(tmp_path / "b.nii", centred, centred)
    scan, label = (without, placed) if of_scan else (placed, without)
    read = read_image(scan, case="014")
    with pytest.raises(ScanError) as caught:
        put_on_grid(load_numbers(label, "case 014: label"), read, location="case 014: label")
    assert caught.value.problem.rule == "grid"
    assert str(caught.value).endswith("form codes of 0, and no certain place; export both again")
    put_on_grid(load_numbers(scan, "case 014: label"), read, location="case 014: label")
