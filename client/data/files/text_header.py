"""The text headers of MetaImage and NRRD: their fields, and the geometry that these say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdnet_models.geometry import format_numbers
from client.data.errors import ScanError
from client.data.files.readings import Reading
from client.data.notes import Note

_LIMIT = 1 << 20  # bytes; a text header longer than this is none
_LONGEST_LINE = 1 << 16
# Names of one thing in MetaImage; a reader takes one of them, and which is its own choice.
_SPACING = ("elementspacing", "elementsize")
_MATRIX = ("transformmatrix", "rotation", "orientation")
_ORIGIN = ("offset", "position", "origin")
_NRRD_GEOMETRY = ("spacings", "space directions", "space origin")
# Signs that turn an NRRD file's space into ITK's.
_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_MILLIMETRES = ("mm", "millimeter", "millimetre", "millimeters", "millimetres", "", "?", "???")
_SKIPS = ("line skip", "byte skip", "headersize")
_SOURCE = "its header"
_NO_ORIGIN = "has no origin in its header; its first voxel is put at 0 mm"
_BYTES = {
    **dict.fromkeys(("met_char", "met_uchar", "signed char", "int8", "int8_t", "char"), 1),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("met_short", "met_ushort", "short", "short int", "signed short"), 2),
    **dict.fromkeys(("signed short int", "int16", "int16_t", "ushort", "unsigned short"), 2),
    **dict.fromkeys(("unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("met_int", "met_uint", "met_long", "met_ulong", "met_float"), 4),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int"), 4),
    **dict.fromkeys(("uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("met_long_long", "met_ulong_long", "met_double", "double"), 8),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t", "uint64", "uint64_t"), 8),
}


@dataclass(frozen=True, kw_only=True)
class TextHeader:
    """A header as it stands.

    Attributes:
        nrrd: Whether it is NRRD's; else MetaImage's.
        fields: By name in lower case.
        doubled: Names of fields that are there with several values.
        end: Where the header ends, in bytes.
        complete: Whether it is there to its end.
    """

    nrrd: bool
    fields: Mapping[str, str]
    doubled: frozenset[str]
    end: int
    complete: bool

    @property
    def is_3d(self) -> bool:
        """Whether it is whole, and of three dimensions."""
        return (
            self.complete
            and self.fields.get("dimension" if self.nrrd else "ndims", "").strip() == "3"
        )

    def numbers(self) -> list[float]:
        """All numbers that place the voxels; 0 for words such as `none`."""
        names = _NRRD_GEOMETRY if self.nrrd else (*_SPACING, *_MATRIX, *_ORIGIN)
        return [_number(word) for name in names for word in _words(self.fields.get(name, ""))]

    @property
    def data_file(self) -> str:
        """The file or files of its voxels; empty where they follow the header."""
        names = ("data file", "datafile") if self.nrrd else ("elementdatafile",)
        named = next((self.fields[name] for name in names if name in self.fields), "")
        return "" if named.upper() == "LOCAL" else named

    @property
    def encoding(self) -> str:
        """How its voxels are written: raw, gzip, bzip2, zlib, text or hex."""
        if self.nrrd:
            written = self.fields.get("encoding", "raw").lower()
            aliases = {"gz": "gzip", "bz2": "bzip2", "ascii": "text", "txt": "text"}
            return aliases.get(written, written)
        if self.fields.get("binarydata", "true").lower() == "false":
            return "text"
        return "zlib" if self.fields.get("compresseddata", "").lower() == "true" else "raw"

    def promised_bytes(self) -> tuple[int, int] | None:
        """Bytes of all voxels, and of a slice; None where it does not say, in words known here."""
        kind = self.fields.get("type" if self.nrrd else "elementtype", "").lower()
        words = _words(self.fields.get("sizes" if self.nrrd else "dimsize", ""))
        channels = "1" if self.nrrd else self.fields.get("elementnumberofchannels", "1")
        if kind not in _BYTES or not words or not all(w.isdecimal() for w in (*words, channels)):
            return None
        whole = math.prod(int(word) for word in (*words, channels)) * _BYTES[kind]
        return whole, whole // max(1, int(words[-1]))

    @property
    def skips(self) -> bool:
        """Whether voxels begin behind lines or bytes that are to be skipped."""
        return any(self.fields.get(name, "0") != "0" for name in _SKIPS)


def read_text_header(path: Path) -> TextHeader:
    """The header of a .mha, .mhd, .nrrd or .nhdr file.

    Raises:
        OSError: It cannot be opened.
    """
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    complete = path.suffix.lower() == ".nhdr"
    fields: dict[str, str] = {}
    doubled: set[str] = set()
    with path.open("rb") as stream:
        while stream.tell() < _LIMIT and (line := stream.readline(_LONGEST_LINE)):
            text = line.decode("latin-1").strip()
            if nrrd and not text:
                complete = True
                break
            if nrrd and text.startswith("#"):
                continue
            name, *value = re.split(":=?" if nrrd else "[=:]", text, maxsplit=1)
            name = name.strip().lower()
            if value:
                if fields.setdefault(name, value[0].strip()) != value[0].strip():
                    doubled.add(name)
                fields[name] = value[0].strip()
            if name == "elementdatafile":
                complete = True
                break
        return TextHeader(
            nrrd=nrrd,
            fields=fields,
            doubled=frozenset(doubled),
            end=stream.tell(),
            complete=complete,
        )


def text_reading(header: TextHeader, *, location: str, note: Note) -> Reading:
    """The one geometry of a header of a 3-D image, ITK's left aside.

    Raises:
        ScanError: It has no voxel size, another unit than mm, or two values of one thing.
    """
    for name in (*_SPACING, *_MATRIX, *_ORIGIN, "dimsize", "elementtype"):
        if name in header.doubled and not header.nrrd:  # the NRRD library refuses it
            raise ScanError(
                location,
                f"has {name} twice in its header, with two values; keep the right one",
                rule="geometry",
            )
    return _nrrd(header, location, note) if header.nrrd else _meta(header, location, note)


def _meta(header: TextHeader, location: str, note: Note) -> Reading:
    fields = header.fields
    _check_unit(fields.get("distanceunits", ""), location)
    spacing = _one(fields, _SPACING[:1], 3, location)
    size = _one(fields, _SPACING[1:], 3, location)
    if spacing is not None and size is not None and not np.allclose(spacing, size, rtol=1e-3):
        note(
            f"has ElementSize {format_numbers(size)} mm beside ElementSpacing"
            f" {format_numbers(spacing)} mm; the spacing is used"
        )
    found = spacing if spacing is not None else size
    if found is None:
        raise _no_spacing(location, "ElementSpacing")
    if spacing is None:
        note("has no ElementSpacing in its header; its ElementSize is used")
    matrix = _one(fields, _MATRIX, 9, location)
    origin = _one(fields, _ORIGIN, 3, location)
    if matrix is None:
        note("is placed by its voxel sizes alone: its header has no TransformMatrix")
    elif origin is None:
        note(_NO_ORIGIN)
    return Reading(
        source=_SOURCE,
        spacing_mm_xyz=_positive(found, location),
        direction=None if matrix is None else matrix.reshape(3, 3).T,  # a row is an axis
        origin_mm=origin,
    )


def _nrrd(header: TextHeader, location: str, note: Note) -> Reading:
    fields = header.fields
    for unit in re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", ""))):
        _check_unit(unit, location)
    if "space directions" not in fields:
        spacing = _one(fields, ("spacings",), 3, location)
        if spacing is None:
            raise _no_spacing(location, "space directions or spacings")
        note("is placed by its voxel sizes alone: its header has no space directions")
        return Reading(source=_SOURCE, spacing_mm_xyz=_positive(spacing, location))
    if header.fields["dimension"] == "4":  # of layers
        directions = fields["space directions"].replace("none", "", 1)
        fields = {**fields, "space directions": directions}
    axes = _one(fields, ("space directions",), 9, location)
    assert axes is not None
    signs = _SPACES.get(fields.get("space", "").lower())
    if signs is None:
        note("is read in the space left-posterior-superior, as its header names no anatomical one")
    turned = np.diag(signs or (1, 1, 1)) @ axes.reshape(3, 3).T  # a vector is an axis
    lengths = _positive(np.linalg.norm(turned, axis=0), location)
    origin = _one(fields, ("space origin",), 3, location)
    if origin is None:
        note(_NO_ORIGIN)
    return Reading(
        source=_SOURCE,
        spacing_mm_xyz=lengths,
        direction=turned / lengths,
        origin_mm=None if origin is None else np.diag(signs or (1, 1, 1)) @ origin,
    )


def _one(
    fields: Mapping[str, str], names: Sequence[str], count: int, location: str
) -> NDArray[Any] | None:
    """The numbers that fields of the same meaning hold; None where there is none of them."""
    written = [(name, _words(fields[name])) for name in names if name in fields]
    found: list[NDArray[Any]] = []
    for name, words in written:
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.array([])
        if len(values) != count:
            raise ScanError(
                location,
                f"has {name} ({' '.join(words)[:60]}) in its header, must be {count} numbers;"
                " export it again",
                rule="geometry",
            )
        found.append(values)
        if not np.allclose(found[0], values, rtol=1e-6, atol=1e-6):
            raise ScanError(
                location,
                f"says two geometries: {written[0][0]} {format_numbers(found[0])}, {name}"
                f" {format_numbers(values)}; keep one of the two",
                rule="geometry",
            )
    return found[0] if found else None


def _positive(spacing_mm: NDArray[Any], location: str) -> NDArray[Any]:
    if not np.all(spacing_mm > 0):
        raise ScanError(
            location,
            f"has voxels of {format_numbers(spacing_mm)} mm by its header, must be above 0; export"
            " it again",
            rule="geometry",
        )
    return spacing_mm


def _check_unit(unit: str, location: str) -> None:
    if unit.strip().lower() not in _MILLIMETRES:
        raise ScanError(
            location,
            f"has the unit {unit[:20]} in its header, must be mm; write millimetres",
            rule="geometry",
        )


def _no_spacing(location: str, field: str) -> ScanError:
    return ScanError(
        location,
        f"has no voxel size in its header ({field}), and would be read as 1 mm; export it again",
        rule="geometry",
    )


def _words(value: str) -> list[str]:
    return [word for word in re.split(r"[\s(),]+", value) if word]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return 0.0
