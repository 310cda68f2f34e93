"""Label maps whose own header names their values: 3D Slicer, MITK, label tables of NIfTI."""

import gzip
import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from bad_cases import SHAPE, Place, on_grid, save
from numpy.typing import NDArray

from . import Faulty

SPACING, ORIGIN = (0.5, 0.7, 3.0), (-10.0, 20.0, 5.0)
VOXEL_ML = 0.5 * 0.7 * 3.0 / 1000
BOTH_ML = {"bladder": 60 * VOXEL_ML, "prostate": 24 * VOXEL_ML}
Array = NDArray[Any]


def bladder() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, np.bool_)
    mask[1:4, 2:6, 3:8] = True
    return mask


def prostate() -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, np.bool_)
    mask[1:3, 8:11, 3:7] = True
    return mask


def swapped() -> NDArray[np.uint8]:
    """The prostate is 1 and the bladder 2, against the study's numbers."""
    return (prostate() + 2 * bladder()).astype(np.uint8)


def with_a_third() -> NDArray[np.uint8]:
    """The prostate is 1, the bladder 3, and 2 something else."""
    array = swapped()
    array[array == 2] = 3
    array[0, 0, :4] = 2
    return array


def segments(*named: str, **fields: Sequence[object]) -> dict[str, object]:
    """Fields of 3D Slicer's segments, values 1, 2, ... unless `LabelValue` says otherwise."""
    fields = {"Name": named, "LabelValue": range(1, len(named) + 1), **fields}
    return {
        f"Segment{number}_{field}": value
        for field, values in fields.items()
        for number, value in enumerate(values)
    }


def write_nrrd(
    path: Path,
    array: Array,
    fields: Mapping[str, object],
    *,
    spacing: Sequence[float] = SPACING,
    first_xyz: Sequence[int] = (0, 0, 0),
) -> None:
    """A file as 3D Slicer writes it: (Z, Y, X), or (Z, Y, X, layers) as a list before the axes."""
    layered = array.ndim > 3
    origin = [o + mm * n for o, mm, n in zip(ORIGIN, SPACING, first_xyz, strict=True)]
    axes = [f"({','.join(str(spacing[a] * (a == b)) for b in range(3))})" for a in range(3)]
    lines = [
        "NRRD0004",
        "# Complete NRRD file format specification at:",
        f"type: {'unsigned char' if array.dtype == np.uint8 else 'double'}",
        f"dimension: {array.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in array.shape[3:] + array.shape[2::-1])}",
        f"space directions: {'none ' if layered else ''}{' '.join(axes)}",
        f"kinds: {'list ' if layered else ''}domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({','.join(str(mm) for mm in origin)})",
        *(f"{key}:={value}" for key, value in fields.items()),
    ]
    header = b"\n".join(_bytes(line) for line in lines)
    path.write_bytes(header + b"\n\n" + gzip.compress(np.ascontiguousarray(array).tobytes()))


def _bytes(line: str) -> bytes:
    """UTF-8; a name that is to be Latin-1 has its bytes as surrogates."""
    return line.encode("utf-8", "surrogateescape")


def drawn(
    array: Array | Callable[[], Array],
    fields: Mapping[str, object],
    suffix: str = ".seg.nrrd",
    **geometry: Any,
) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        save(place.scan(), place.image())
        voxels = array() if callable(array) else array
        write_nrrd(place.label(suffix), voxels, fields, **geometry)

    return make


def by_plain_bytes(suffix: str = ".seg.nrrd") -> Callable[[Place], str]:
    """What the header names, and how many voxels have that value in that layer."""

    def truth(place: Place) -> str:
        head, _, body = place.label(suffix).read_bytes().partition(b"\n\n")
        text = head.decode("utf-8", "replace")
        kind = "<f8" if re.search(r"^type: double", text, re.M) else "u1"
        voxels = np.frombuffer(gzip.decompress(body), kind)
        sizes = [int(n) for n in re.findall(r"^sizes: (.*)$", text, re.M)[0].split()]
        layers = sizes[0] if len(sizes) == 4 else 1
        told = []
        for number, name in re.findall(r"^Segment(\d+)_Name:=(.*)$", text, re.M):
            value = re.findall(rf"^Segment{number}_LabelValue:=(.*)$", text, re.M)
            layer = re.findall(rf"^Segment{number}_Layer:=(.*)$", text, re.M)
            at = int(layer[0]) if layer else int(number) % layers
            count = int(np.count_nonzero(voxels[at::layers] == int(value[0] if value else 1)))
            told.append(f"{name}={value[0] if value else 1} {count} voxels")
        return f"plain bytes: {', '.join(told) or 'no names'}; largest value {voxels.max():.12g}"

    return truth


# ---- other writers ------------------------------------------------------------------------------


def of_simpleitk(place: Place) -> None:
    """A .seg.nrrd read and written again as .mha: the fields come along."""
    save(place.scan(), place.image())
    path = place.root / f"{place.name}.nrrd"
    write_nrrd(path, swapped(), segments("prostate", "bladder"))
    sitk.WriteImage(sitk.ReadImage(str(path)), str(place.label(".mha")))
    path.unlink()


def by_mha_header(place: Place) -> str:
    head = place.label(".mha").read_bytes()[:4000].decode("latin-1")
    return "plain bytes: " + ", ".join(
        f"{name}={head.partition(f'Segment{n}_LabelValue = ')[2][0]}"
        for n, name in enumerate(re.findall(r"^Segment\d_Name = (.*)$", head, re.M))
    )


def mitk_groups(*groups: Sequence[tuple[str, int]]) -> dict[str, object]:
    told = [
        {"labels": [{"name": name, "value": value, "locked": True} for name, value in group]}
        for group in groups
    ]
    return {
        "modality": "org.mitk.multilabel.segmentation",
        "org.mitk.multilabel.segmentation.labelgroups": json.dumps(told),
        "org.mitk.multilabel.segmentation.version": 2,
    }


def by_mitk_header(place: Place) -> str:
    head = place.label(".nrrd").read_bytes().partition(b"\n\n")[0].decode()
    line = head.partition("labelgroups:=")[2].partition("\n")[0]
    labels = [label for group in json.loads(line) for label in group["labels"]]
    return "plain bytes: " + ", ".join(f"{label['name']}={label['value']}" for label in labels)


def label_table(**values: int) -> bytes:
    labels = "".join(
        f'<Label Key="{value}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{name}]]></Label>'
        for name, value in values.items()
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?> <CaretExtension><VolumeInformation Index="0">'
        f"<LabelTable>{labels}</LabelTable></VolumeInformation></CaretExtension>"
    ).encode()


def of_total_segmentator(place: Place) -> None:
    save(place.scan(), place.image())
    image = nib.Nifti1Image(swapped().T, np.diag([-0.5, -0.7, 3.0, 1.0]))
    image.affine[:3, 3] = (10.0, -20.0, 5.0)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    content = label_table(prostate=1, bladder=2, colon=9)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, content))
    nib.save(image, place.label(".nii.gz"))


def by_nibabel(place: Place) -> str:
    image = nib.load(place.label(".nii.gz"))
    [extension] = image.header.extensions
    values = np.asanyarray(image.dataobj)
    found = re.findall(rb'Key="(\d+)"[^>]*><!\[CDATA\[(\w+)', extension.get_content())
    return "nibabel: " + ", ".join(
        f"{name.decode()}={int(key)} {np.count_nonzero(values == int(key))} voxels"
        for key, name in found
    )


def of_floats(place: Place) -> None:
    save(place.scan(), place.image())
    array = swapped().astype(np.float64)
    array[array == 1] = 2**32 + 1
    save(on_grid(array), place.label(".nrrd"))


def by_simple_header(place: Place) -> str:
    head, _, body = place.label(".nrrd").read_bytes().partition(b"\n\n")
    raw = gzip.decompress(body) if b"encoding: gzip" in head else body
    values = struct.unpack(f"<{len(raw) // 8}d", raw)
    return f"plain bytes: values {sorted({int(value) for value in values})}"


def segmentation_as_scan(place: Place) -> None:
    named = segments("prostate", "bladder")
    write_nrrd(place.label(".seg.nrrd"), swapped(), named)
    write_nrrd(place.image(".nrrd"), swapped(), named)


def rim() -> Array:
    """Two layers, each with value 1; one voxel is of both."""
    touching = prostate()
    touching[3, 5, 7] = True
    return np.stack([touching, bladder()], axis=-1).astype(np.uint8)


def grown() -> Array:
    """The segmentation as a box that reaches two slices over the scan's end, with voxels there."""
    return np.concatenate([swapped(), swapped()[1:3]])


def in_two_parts() -> Array:
    array = swapped()
    array[2][array[2] == 1] = 3
    return array


def fraction() -> Array:
    return (swapped() * 100).astype(np.uint8)


def cropped() -> Array:
    return np.ascontiguousarray(swapped()[1:4, 2:12, 3:8])


INPUTS: Mapping[str, Faulty] = {
    "lf_swapped": Faulty(
        kind="10",
        what=".seg.nrrd of 3D Slicer, its numbers against the study's",
        make=drawn(swapped, segments("prostate", "bladder")),
        truth=by_plain_bytes(),
        rule="",
        said="its own names decide, against the study's numbers: 1 is prostate, 2 is bladder",
        volumes_ml=BOTH_ML,
    ),
    "lf_plain_nrrd": Faulty(
        kind="10",
        what="plain .nrrd with names of segments, its numbers against the study's",
        make=drawn(swapped, segments("Prostate ", "BLADDER"), ".nrrd"),
        truth=by_plain_bytes(".nrrd"),
        rule="",
        said="its own names decide",
        volumes_ml=BOTH_ML,
    ),
    "lf_layers": Faulty(
        kind="10",
        what=".seg.nrrd of two layers, both of value 1, that share a voxel",
        make=drawn(rim, segments("prostate", "bladder", LabelValue=(1, 1), Layer=(0, 1))),
        truth=by_plain_bytes(),
        rule="",
        said="",
        volumes_ml={"bladder": 59 * VOXEL_ML, "prostate": 25 * VOXEL_ML},
    ),
    "lf_old_layers": Faulty(
        kind="10",
        what=".seg.nrrd of an older 3D Slicer: a layer a segment, without values",
        make=drawn(rim, {"Segment0_Name": "prostate", "Segment1_Name": "bladder"}),
        truth=by_plain_bytes(),
        rule="",
        said="",
        volumes_ml={"bladder": 59 * VOXEL_ML, "prostate": 25 * VOXEL_ML},
    ),
    "lf_boxed": Faulty(
        kind="10",
        what=".seg.nrrd cropped to its segments",
        make=drawn(cropped, segments("prostate", "bladder"), first_xyz=(3, 2, 1)),
        truth=by_plain_bytes(),
        rule="",
        said="its own names decide",
        volumes_ml=BOTH_ML,
    ),
    "lf_outside": Faulty(
        kind="10",
        what=".seg.nrrd with voxels beyond the scan's last slice",
        make=drawn(grown, segments("prostate", "bladder")),
        truth=by_plain_bytes(),
        rule="grid",
        said="is not on the image grid: 64 of its voxels lie outside the scan",
    ),
    "lf_off_voxel": Faulty(
        kind="10",
        what=".seg.nrrd cropped, on a finer grid",
        make=drawn(cropped, segments("prostate", "bladder"), spacing=(0.25, 0.35, 3.0)),
        truth=by_plain_bytes(),
        rule="grid",
        said="is not on the image grid: spacing (0.25, 0.35, 3) mm against (0.5, 0.7, 3) mm",
    ),
    "lf_other_name": Faulty(
        kind="10",
        what=".seg.nrrd with an organ under a name that nobody knows, its numbers the study's",
        make=drawn(lambda: (bladder() + 2 * prostate()).astype("u1"), segments("bladder", "Prost")),
        truth=by_plain_bytes(),
        rule="organ",
        said="holds no structure for prostate",
    ),
    "lf_no_segment": Faulty(
        kind="10",
        what=".seg.nrrd with a value that no segment has",
        make=drawn(lambda: swapped() + (swapped() == 2), segments("prostate", "bladder")),
        truth=by_plain_bytes(),
        rule="values",
        said="holds the values 3, which none of its 2 named segments has",
    ),
    "lf_two_names": Faulty(
        kind="10",
        what=".seg.nrrd with two names for one value",
        make=drawn(swapped, segments("prostate", "bladder", "rectum", LabelValue=(1, 2, 2))),
        truth=by_plain_bytes(),
        rule="values",
        said="has 2 names for its value 2",
    ),
    "lf_double": Faulty(
        kind="10",
        what=".seg.nrrd with two segments for one organ",
        make=drawn(in_two_parts, segments("prostate", "bladder", "Prostate")),
        truth=by_plain_bytes(),
        rule="values",
        said="holds 2 structures for prostate",
    ),
    "lf_unknown_names": Faulty(
        kind="10",
        what=".seg.nrrd with names that the site's file does not know, and numbers that it does",
        make=drawn(swapped, segments("Prostata", "Harnblase")),
        truth=by_plain_bytes(),
        rule="",
        said="does not know; its numbers decide: 1 is prostate, 2 is bladder",
        volumes_ml=BOTH_ML,
        site={"labels": {"bladder": ["Blase", 2], "prostate": [1]}},
    ),
    "lf_empty": Faulty(
        kind="10",
        what=".seg.nrrd with a segment for an organ that holds no voxel",
        make=drawn(lambda: bladder().astype("u1"), segments("bladder", "prostate")),
        truth=by_plain_bytes(),
        rule="organ",
        said="holds an empty structure for prostate",
    ),
    "lf_fractional": Faulty(
        kind="10",
        what=".seg.nrrd with a fractional label map",
        make=drawn(
            fraction,
            segments("prostate", "bladder")
            | {"Segmentation_MasterRepresentation": "Fractional labelmap"},
        ),
        truth=by_plain_bytes(),
        rule="values",
        said="is a fractional label map",
    ),
    "lf_unnamed": Faulty(
        kind="10",
        what=".seg.nrrd whose segments nobody has named",
        make=drawn(
            lambda: (bladder() + 2 * prostate()).astype("u1"), segments("Segment_1", "Segment_2")
        ),
        truth=by_plain_bytes(),
        rule="",
        said="its segments bear no names of organs; read by their numbers",
        volumes_ml=BOTH_ML,
    ),
    "lf_unnamed_layers": Faulty(
        kind="10",
        what=".seg.nrrd of two layers whose segments nobody has named",
        make=drawn(rim, segments("Segment_1", "Segment_2", LabelValue=(1, 1), Layer=(0, 1))),
        truth=by_plain_bytes(),
        rule="values",
        said="holds several layers whose segments bear no names",
    ),
    "lf_latin": Faulty(
        kind="10",
        what=".seg.nrrd with one name in Latin-1, of a structure that the study does not have",
        make=drawn(with_a_third, segments("prostate", "Dr\udcfcse", "bladder")),
        truth=by_plain_bytes(),
        rule="",
        said="1 of its label's structures left aside",
        volumes_ml={"bladder": BOTH_ML["bladder"], "prostate": BOTH_ML["prostate"]},
    ),
    "lf_mha": Faulty(
        kind="10",
        what=".seg.nrrd that SimpleITK has written again as .mha",
        make=of_simpleitk,
        truth=by_mha_header,
        rule="",
        said="its own names decide",
        volumes_ml=BOTH_ML,
    ),
    "lf_mitk": Faulty(
        kind="10",
        what=".nrrd of MITK, its numbers against the study's",
        make=drawn(swapped, mitk_groups([("Prostate", 1), ("Bladder", 2)]), ".nrrd"),
        truth=by_mitk_header,
        rule="",
        said="its own names decide",
        volumes_ml=BOTH_ML,
    ),
    "lf_broken_names": Faulty(
        kind="10",
        what=".nrrd whose names are cut off within",
        make=drawn(
            swapped,
            {"org.mitk.multilabel.segmentation.labelgroups": '[{"labels":[{"name":"Prostate"'},
            ".nrrd",
        ),
        truth=by_plain_bytes(".nrrd"),
        rule="damaged",
        said="has names of its values in its header that cannot be read",
    ),
    "lf_table": Faulty(
        kind="10",
        what=".nii.gz of TotalSegmentator, its label table against the study's numbers",
        make=of_total_segmentator,
        truth=by_nibabel,
        rule="",
        said="its own names decide",
        volumes_ml=BOTH_ML,
    ),
    "lf_beyond_32_bits": Faulty(
        kind="10",
        what="label of floats with the value 2^32 + 1, which a cast may turn into 1",
        make=of_floats,
        truth=by_simple_header,
        rule="values",
        said="holds values up to 4.29497e+09",
    ),
    "lf_as_scan": Faulty(
        kind="10",
        what="segmentation of 3D Slicer in the place of the scan",
        make=segmentation_as_scan,
        truth=by_plain_bytes(),
        rule="format",
        said="is a label map whose header names its values",
    ),
    "lf_against_site": Faulty(
        kind="10",
        what=".seg.nrrd whose names contradict the numbers of the site's file",
        make=drawn(swapped, segments("prostate", "bladder")),
        truth=by_plain_bytes(),
        rule="values",
        said="names its value 1 prostate, the site's file has 1 as bladder",
        site={"labels": {"bladder": [1], "prostate": [2]}},
    ),
}
