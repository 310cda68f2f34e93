"""Headers of no geometry, of several, or of no person's; nibabel and plain bytes say which."""

import bz2
import gzip
import re
from collections.abc import Callable, Mapping
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from bad_cases import ORGANS, SHAPE, Place, on_grid, organs, save
from numpy.typing import NDArray

from . import Faulty

Array = NDArray[Any]
SPACING = (0.5, 0.7, 3.0)
VOXEL_ML = 0.5 * 0.7 * 3.0 / 1000
VOLUMES_ML = {name: int((organs() == value).sum()) * VOXEL_ML for name, value in ORGANS.items()}
THICK = np.diag([-0.5, -0.7, 3.0, 1.0])
GOOD_SIZES = [1, 0.5, 0.7, 3, 0, 0, 0, 0]


def turned(degrees: float) -> Array:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def moved(across_mm: float) -> Array:
    found = np.eye(4)
    found[0, 3] = across_mm
    return found


def mirrored() -> Array:
    return np.diag([-1.0, 1, 1, 1])


def sheared() -> Array:
    found = np.eye(4)
    found[0, 2] = 0.2
    return found


def nifti(
    change: Array | None = None,
    *,
    codes: tuple[int, int] = (1, 1),
    suffix: str = ".nii.gz",
    order: str = "<",
    **fields: Any,
) -> Callable[[Place], None]:
    """Image and label whose matrix is changed against the quaternion, with fields of the header."""

    def make(place: Place) -> None:
        for path, voxels in (
            (place.image(suffix), place.voxels().astype(np.int16)),
            (place.label(suffix), organs()),
        ):
            image = nib.Nifti1Image(voxels.transpose(), THICK)
            image.set_qform(THICK, 1)
            header = image.header
            header.set_sform(THICK if change is None else change @ THICK, 1)
            header["qform_code"], header["sform_code"] = codes
            for name, value in fields.items():
                header[name] = value
            header.set_slope_inter(1, 0)
            header["vox_offset"] = 352
            body = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()
            content = header.as_byteswapped(order).binaryblock + bytes(4) + body
            packed = path.name.lower().endswith(".gz")
            path.write_bytes(gzip.compress(content) if packed else content)

    return make


def by_nibabel(suffix: str = ".nii.gz") -> Callable[[Place], str]:
    """What a NIfTI header says, each of its three readings for itself."""

    def truth(place: Place) -> str:
        content = place.image(suffix).read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        header = nib.Nifti1Header(content[:348], check=False)
        matrix = header.get_sform()
        sizes = words(header["pixdim"][1:4])
        told = [
            f"pixdim {sizes} mm",
            f"sform (code {int(header['sform_code'])}) {words(nib.affines.voxel_sizes(matrix))} mm",
            f"qform (code {int(header['qform_code'])})",
        ]
        try:
            by_quaternion = header.get_qform()
        except (ValueError, nib.spatialimages.HeaderDataError) as error:
            told.append(f"no quaternion: {error}")
        else:
            corner = np.array([SHAPE[2] - 1, SHAPE[1] - 1, SHAPE[0] - 1, 1])
            apart_mm = np.linalg.norm(((matrix - by_quaternion) @ corner)[:3])
            told.append(f"its last voxel {apart_mm:.3g} mm from where sform puts it")
        unit = {0: "no unit", 1: "metres", 2: "mm", 3: "micrometres"}[int(header["xyzt_units"]) & 7]
        return f"nibabel: {', '.join(told)}, {unit}"

    return truth


def words(values: Any) -> str:
    return " x ".join(f"{float(value):.4g}" for value in values)


def text(suffix: str, edits: Mapping[str, str | None]) -> Callable[[Place], None]:
    """Image and label, lines of their headers replaced; None takes one away."""

    def make(place: Place) -> None:
        for path, image in (
            (place.image(suffix), place.scan()),
            (place.label(suffix), on_grid(organs())),
        ):
            save(image, path)
            content = path.read_bytes()
            for field, value in edits.items():
                line = b"" if value is None else f"{field}{value}\n".encode()
                pattern = rf"^{re.escape(field)}.*\n".encode()
                content, count = re.subn(pattern, lambda _, new=line: new, content, flags=re.M)
                if not count:
                    start = max(content.find(b"ElementDataFile"), content.find(b"encoding: "))
                    content = content[:start] + line + content[start:]
            path.write_bytes(content)

    return make


def by_bytes(suffix: str, *fields: str) -> Callable[[Place], str]:
    def truth(place: Place) -> str:
        head = place.image(suffix).read_bytes()[:2000].decode("latin-1")
        found = [line for line in head.splitlines() if line.startswith(fields)]
        return f"plain bytes: {'; '.join(found) or 'no ' + ', '.join(fields)}"

    return truth


def spaced(*spacing_mm: float) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        for path, image in (
            (place.image(), place.scan()),
            (place.label(), on_grid(organs())),
        ):
            image.SetSpacing(spacing_mm)
            save(image, path)

    return make


def empty(place: Place) -> None:
    place.image(".nii.gz").touch()
    place.good_label()


def by_size(place: Place) -> str:
    return f"plain bytes: {place.image('.nii.gz').stat().st_size} bytes"


def packed_by_bzip2(place: Place) -> None:
    save(place.scan(), place.image(".nrrd"))
    head, _, body = place.image(".nrrd").read_bytes().partition(b"\n\n")
    head = head.replace(b"encoding: raw", b"encoding: bzip2")
    place.image(".nrrd").write_bytes(head + b"\n\n" + bz2.compress(body))
    place.good_label()


def gzip_under_nii(place: Place) -> None:
    nifti(suffix=".nii")(place)
    content = place.image(".nii").read_bytes()
    place.image(".nii").write_bytes(gzip.compress(content))


def by_first_bytes(suffix: str) -> Callable[[Place], str]:
    return lambda place: f"plain bytes: begins with {place.image(suffix).read_bytes()[:4].hex(' ')}"


def four_dimensions_of_one(place: Place) -> None:
    for path, voxels in (
        (place.image(".nii.gz"), place.voxels().astype(np.int16)),
        (place.label(".nii.gz"), organs()),
    ):
        nib.save(nib.Nifti1Image(voxels.transpose()[..., None], THICK), path)


def by_shape(place: Place) -> str:
    image = nib.load(place.image(".nii.gz"))
    label = np.asarray(nib.load(place.label(".nii.gz")).dataobj)
    ml = np.prod(image.header.get_zooms()[:3]) / 1000
    told = ", ".join(f"{name} {(label == n).sum() * ml:.4g} ml" for name, n in ORGANS.items())
    return f"nibabel: shape {image.shape}, {told}"


def ras(place: Place) -> None:
    """NRRD in the space that nibabel uses, mirrored against ITK's along two axes."""
    for path, image in (
        (place.image(".nrrd"), place.scan()),
        (place.label(), on_grid(organs())),
    ):
        save(image, path)
    content = place.image(".nrrd").read_bytes()
    content = content.replace(b"left-posterior-superior", b"right-anterior-superior")
    content = content.replace(b"(0.5,0,0) (0,0.69999999999999996,0)", b"(-0.5,0,0) (0,-0.7,0)")
    content = content.replace(b"space origin: (-10,20,5)", b"space origin: (10,-20,5)")
    place.image(".nrrd").write_bytes(content)


def micro(place: Place) -> str:
    image = sitk.ReadImage(str(place.image()))
    edges = np.multiply(image.GetSize(), image.GetSpacing())
    return f"SimpleITK: voxels of {words(image.GetSpacing())} mm, {words(edges)} mm in all"


def told(kind: str, what: str, make: Any, truth: Any, said: str, rule: str = "geometry") -> Faulty:
    return Faulty(kind=kind, what=what, make=make, truth=truth, rule=rule, said=said)


def used(kind: str, what: str, make: Any, truth: Any, said: str = "") -> Faulty:
    return Faulty(
        kind=kind, what=what, make=make, truth=truth, rule="", said=said, volumes_ml=VOLUMES_ML
    )


_SIZES_OF_1 = nifti(pixdim=[1, 1, 1, 1, 0, 0, 0, 0])
_TRANSFORM = "TransformMatrix = "
_FORMS = {
    "geometry_matrix_against_sizes": told(
        "1",
        "NIfTI: matrix (sform) against voxel sizes (pixdim)",
        _SIZES_OF_1,
        by_nibabel(),
        "says two geometries: voxels of (0.5, 0.7, 3) mm by its matrix (sform), of (1, 1, 1) mm",
    ),
    "geometry_sizes_of_0": told(
        "1",
        "NIfTI: voxel sizes of 0 beside a good matrix",
        nifti(pixdim=[1, 0, 0, 0, 0, 0, 0, 0]),
        by_nibabel(),
        "has voxels of (0, 0, 0) mm by its voxel sizes (pixdim), of (0.5, 0.7, 3) mm by its matrix",
    ),
    "geometry_sizes_below_0": told(
        "1",
        "NIfTI: a negative voxel size beside a good matrix",
        nifti(pixdim=[1, -0.5, 0.7, 3, 0, 0, 0, 0]),
        by_nibabel(),
        "has voxels of (-0.5, 0.7, 3) mm by its voxel sizes (pixdim)",
    ),
    "geometry_turned_20": told(
        "1",
        "NIfTI: matrix turned by 20 degrees against the quaternion (qform), both valid",
        nifti(turned(20)),
        by_nibabel(),
        "its matrix (sform) is turned by 20 degrees against its quaternion (qform)",
    ),
    "geometry_turned_1": told(
        "1",
        "... by one degree, .nii, big-endian",
        nifti(turned(1), suffix=".nii", order=">"),
        by_nibabel(".nii"),
        "its matrix (sform) is turned by 1 degrees against its quaternion (qform)",
    ),
    "geometry_mirrored": told(
        "1",
        "... mirrored, left for right",
        nifti(mirrored()),
        by_nibabel(),
        "its matrix (sform) is mirrored against its quaternion (qform)",
    ),
    "geometry_moved": told(
        "1",
        "... moved by 4 mm",
        nifti(moved(4)),
        by_nibabel(),
        "its matrix (sform) is 4 mm away from its quaternion (qform)",
    ),
    "geometry_sheared_beside": told(
        "1",
        "NIfTI: a sheared matrix beside an upright quaternion",
        nifti(sheared(), pixdim=[1, 0.5, 0.7, 3 * np.sqrt(1.04), 0, 0, 0, 0]),
        by_nibabel(),
        "is sheared: 78.69 degrees between its first and third axis by its matrix (sform)",
    ),
    "geometry_sheared_alone": told(
        "1",
        "NIfTI: a sheared matrix alone",
        nifti(sheared(), codes=(0, 1), pixdim=[1, 0.5, 0.7, 3 * np.sqrt(1.04), 0, 0, 0, 0]),
        by_nibabel(),
        "is sheared: 78.69 degrees between its first and third axis by its matrix (sform)",
    ),
    "geometry_quaternion_too_long": told(
        "1",
        "NIfTI: a quaternion that is no rotation",
        nifti(codes=(1, 0), quatern_b=0.9, quatern_c=0.9),
        by_nibabel(),
        "has a quaternion (qform) of length 1.6",
    ),
    "geometry_codes_0": used(
        "1",
        "NIfTI: both form codes 0",
        nifti(codes=(0, 0)),
        by_nibabel(),
        "is placed by its voxel sizes alone, as its form codes are 0",
    ),
    "geometry_metres": told(
        "1",
        "NIfTI: its unit is the metre, which ITK heeds and nibabel does not",
        nifti(xyzt_units=1),
        by_nibabel(),
        "voxels of (500, 700, 3000) or (0.5, 0.7, 3) mm; write millimetres",
    ),
}
_TEXTS = {
    "geometry_meta_sheared": told(
        "1",
        "MetaImage: sheared axes",
        text(".mha", {_TRANSFORM: "1 0 0 0.3 1 0 0 0 1"}),
        by_bytes(".mha", "TransformMatrix"),
        "is sheared: 73.3 degrees between its first and second axis by its header",
    ),
    "geometry_meta_scaled": told(
        "1",
        "MetaImage: axes of length 2",
        text(".mha", {_TRANSFORM: "2 0 0 0 2 0 0 0 1"}),
        by_bytes(".mha", "TransformMatrix", "ElementSpacing"),
        "has axes of length (2, 2, 1) by its header, must be 1",
    ),
    "geometry_meta_sizeless": told(
        "1",
        "MetaImage: no voxel size, which ITK reads as 1 mm",
        text(".mha", {"ElementSpacing = ": None}),
        by_bytes(".mha", "ElementSpacing", "ElementSize"),
        "has no voxel size in its header (ElementSpacing), and would be read as 1 mm",
    ),
    "geometry_meta_size": used(
        "1",
        "MetaImage: ElementSize of 1 mm beside the ElementSpacing",
        text(".mha", {"ElementSize = ": "1 1 1"}),
        by_bytes(".mha", "ElementSpacing", "ElementSize"),
        "has ElementSize (1, 1, 1) mm beside ElementSpacing (0.5, 0.7, 3) mm",
    ),
    "geometry_nrrd_unit": told(
        "1",
        "NRRD: its unit is the micrometre, which ITK passes over",
        text(".nrrd", {"space units: ": '"um" "um" "um"'}),
        by_bytes(".nrrd", "space units", "space directions"),
        "has the unit um in its header, must be mm",
    ),
    "geometry_nrrd_spaceless": told(
        "1",
        "NRRD: no voxel size, which ITK reads as 1 mm",
        text(".nrrd", {"space: ": None, "space directions: ": None, "space origin: ": None}),
        by_bytes(".nrrd", "space", "spacings"),
        "has no voxel size in its header (space directions or spacings)",
    ),
    "geometry_nrrd_ras": used(
        "1",
        "NRRD in the space right-anterior-superior, its label in ITK's",
        ras,
        by_bytes(".nrrd", "space: ", "space directions", "space origin"),
    ),
}
_SIZES = {
    "geometry_voxels_500": told(
        "1b",
        "voxels of 500 mm",
        spaced(500, 500, 500),
        micro,
        "has voxels of (500, 500, 500) mm, a scan of a person has edges of 0.01 to 50 mm",
    ),
    "geometry_voxels_in_metres": told(
        "1b",
        "voxels in metres",
        spaced(0.0005, 0.0007, 0.003),
        micro,
        "has voxels of (0.0005, 0.0007, 0.003) mm, a scan of a person",
    ),
    "geometry_view_3": told(
        "1b",
        "a field of view of 3 mm",
        spaced(0.05, 0.07, 0.6),
        micro,
        "has a field of view of (0.9, 0.98, 3) mm, the longest edge of a scan of a person is 5 to",
    ),
}
_FILES = {
    "geometry_empty": told(
        "11",
        "a file of 0 bytes",
        empty,
        by_size,
        "is cut short: it has 0 bytes",
        rule="damaged",
    ),
    "geometry_bzip2": told(
        "11",
        "NRRD compressed by bzip2",
        packed_by_bzip2,
        by_bytes(".nrrd", "encoding"),
        "has its voxels compressed by bzip2, which is not read here",
        rule="format",
    ),
    "geometry_gzip_under_nii": told(
        "11",
        "a compressed file named .nii",
        gzip_under_nii,
        by_first_bytes(".nii"),
        "is compressed, unlike its name; name it .nii.gz",
        rule="format",
    ),
    "geometry_mixed_case": told(
        "11",
        "a suffix of large and small letters, .Nii.gz",
        nifti(suffix=".Nii.gz"),
        by_nibabel(".Nii.gz"),
        "has a suffix of small and capital letters",
        rule="name",
    ),
    "geometry_fourth_of_one": used(
        "11",
        "four dimensions, the last of one voxel",
        four_dimensions_of_one,
        by_shape,
    ),
}
INPUTS = {**_FORMS, **_TEXTS, **_SIZES, **_FILES}
