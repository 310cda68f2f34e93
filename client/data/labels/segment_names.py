"""Names that a label map's own file gives to its values.

3D Slicer writes them into .seg.nrrd and .nrrd (SimpleITK carries them into .mha), MITK into .nrrd,
Connectome Workbench and TotalSegmentator into a NIfTI file's header extension. Only headers are
read here.

Sources: 3D Slicer, "Segmentation file format"; MITK, MultiLabelSegmentationIO, versions 1 and 2;
nifti1.h, header extensions; Connectome Workbench, LabelTable of a CaretExtension.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from client.data.errors import ScanError
from client.data.folder.entries import suffix_of

_HEADER_LIMIT = 1 << 22  # bytes; a hundred segments with their codes of terminology take 70 kB
_NIFTI_HEADER = 348
_SLICER_FIELD = re.compile(rb"^Segment(\d+)_(Name|LabelValue|Layer)[ \t]*:?=[ \t]*(.*?)\r?$", re.M)
_REPRESENTATION = re.compile(
    rb"^Segmentation_(?:Master|Source)Representation[ \t]*:?=[ \t]*(.*?)\r?$", re.M
)
_MITK_GROUPS = re.compile(
    rb"^org\.mitk\.multilabel\.segmentation\.labelgroups[ \t]*:?=[ \t]*(.*?)\r?$", re.M
)
# What programs call a segment that nobody has named.
_UNNAMED = re.compile(r"(segment|label|structure|region|roi|class|l)?[\s_-]*\d*")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One named value of a label map.

    Attributes:
        name: As the file has it, without spaces around it.
        value: Of its voxels.
        layer: The layer that it is in; None: one after the other, where there are several.
    """

    name: str
    value: int
    layer: int | None = None

    @property
    def named(self) -> bool:
        """Whether a person, or a model, has named it; `Segment_1` is no name."""
        return _UNNAMED.fullmatch(self.name.casefold()) is None


@dataclass(frozen=True, kw_only=True)
class SegmentNames:
    """What the header of a label map says of its segments.

    Attributes:
        segments: Those of other values than 0, in the order of the file.
        boxed: The file may hold the box around the segments alone, as 3D Slicer writes it.
    """

    segments: tuple[Segment, ...] = ()
    boxed: bool = False


def read_segment_names(path: Path, *, location: str) -> SegmentNames:
    """The names in a label map's header; none where it has none, or is no file of such a format.

    Args:
        path: A label map that `load_numbers` reads.
        location: How a message begins.

    Raises:
        ScanError: The names cannot be read, or it is a fractional label map.
    """
    suffix = suffix_of(path)
    if suffix is None or not os.path.isfile(path):  # a pipe would never end
        return SegmentNames()
    try:
        if suffix.startswith(".nii"):
            segments = tuple(_of_label_tables(path))
            return SegmentNames(segments=tuple(each for each in segments if each.value))
        header = _text_header(path)
        segments = tuple(_of_slicer(header, location)) or tuple(_of_mitk(header))
    except (OSError, EOFError, zlib.error, struct.error):
        return SegmentNames()  # reading the voxels says what is wrong
    except (ValueError, KeyError, TypeError, ElementTree.ParseError) as error:
        if isinstance(error, ScanError):
            raise
        raise ScanError(
            location,
            "has names of its values in its header that cannot be read; save it again",
            rule="damaged",
        ) from error
    return SegmentNames(
        segments=tuple(each for each in segments if each.value),
        boxed=_SLICER_FIELD.search(header) is not None,
    )


def _of_slicer(header: bytes, location: str) -> Iterator[Segment]:
    fields: dict[int, dict[bytes, bytes]] = {}
    for number, field, value in _SLICER_FIELD.findall(header):
        fields.setdefault(int(number), {})[field] = value
    representation = _REPRESENTATION.search(header)
    if fields and representation and b"fractional" in representation[1].lower():
        raise ScanError(
            location,
            "is a fractional label map; export it as a binary label map",
            rule="values",
        )
    for _, segment in sorted(fields.items()):
        yield Segment(
            name=_text(segment.get(b"Name", b"")),
            # Older files hold one layer a segment, and say neither.
            value=int(segment.get(b"LabelValue", b"1")),
            layer=int(segment[b"Layer"]) if b"Layer" in segment else None,
        )


def _of_mitk(header: bytes) -> Iterator[Segment]:
    found = _MITK_GROUPS.search(header)
    groups: list[dict[str, Any]] = json.loads(_text(found[1])) if found else []
    for layer, group in enumerate(groups):
        for label in group["labels"]:
            yield Segment(name=str(label["name"]).strip(), value=int(label["value"]), layer=layer)


def _of_label_tables(path: Path) -> Iterator[Segment]:
    """The labels of the XML in a NIfTI file's header extensions."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rb") as stream:
        header = stream.read(_NIFTI_HEADER + 4)
        if len(header) < _NIFTI_HEADER + 4 or not header[_NIFTI_HEADER]:
            return
        order = "<" if struct.unpack_from("<i", header)[0] == _NIFTI_HEADER else ">"
        (end,) = struct.unpack_from(order + "f", header, 108)
        if not _NIFTI_HEADER < end < _HEADER_LIMIT:
            return
        extensions = stream.read(int(end) - len(header))
    start = 0
    while start + 8 <= len(extensions):
        (size,) = struct.unpack_from(order + "i", extensions, start)
        if size < 8:
            return
        content = extensions[start + 8 : start + size].rstrip(b"\0")
        start += size
        if b"<LabelTable" in content:
            for label in ElementTree.fromstring(content.strip()).iter("Label"):
                yield Segment(name=(label.text or "").strip(), value=int(label.attrib["Key"]))


def _text_header(path: Path) -> bytes:
    """The lines before the voxels of a MetaImage or NRRD file."""
    lines: list[bytes] = []
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    with path.open("rb") as stream:
        while stream.tell() < _HEADER_LIMIT and (line := stream.readline(_HEADER_LIMIT)):
            if not line.strip() if nrrd else line.lower().startswith(b"elementdatafile"):
                break
            lines.append(line)
    return b"".join(lines)


def _text(value: bytes) -> str:
    """A value of a text header: UTF-8, or as older programs write it, Latin-1."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
    return re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else "\\", text).strip()
