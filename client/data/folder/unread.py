"""Files that are no scan that is read here, and yet may be one: what they are, and what helps."""

from __future__ import annotations

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from protocol.config.rules import Rule

_ONE_FILE = "convert it to one .nii.gz file"
_COPY = "copy it again, whole"
_ARCHIVE = ("an archive", "unpack it: one file, or one folder of slices, for each case")
_PAIR = ("one half of a pair of .hdr and .img, Analyze or NIfTI", "convert the pair to one .nii.gz")
_ARRAY = ("an array without the place and the spacing of a scan", "save it as .nii.gz with both")
_PACKED = ("compressed in a way that is not read", "unpack it, or save it as .nii.gz")
_PHILIPS = ("an export of Philips as PAR and REC", "export it as DICOM, or convert it by dcm2niix")
_FREESURFER = ("a volume of FreeSurfer", "convert it to .nii.gz, for instance by mri_convert")
_HEADLESS = ("the voxels of a scan without their header", "copy the .mhd or .nhdr file too")
_SHORTCUT = ("a shortcut", "copy the scan itself")

# By suffix, what a file is and what to do about it; the longest suffix counts.
_FORMATS: dict[str, tuple[str, str]] = {
    **dict.fromkeys((".img", ".hdr", ".img.gz", ".hdr.gz"), _PAIR),
    **dict.fromkeys((".mgz", ".mgh"), _FREESURFER),
    **dict.fromkeys((".par", ".rec"), _PHILIPS),
    **dict.fromkeys((".npy", ".npz"), _ARRAY),
    **dict.fromkeys((".raw", ".zraw"), _HEADLESS),
    **dict.fromkeys((".lnk", ".url", ".webloc"), _SHORTCUT),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".mrb"), _ARCHIVE),
    **dict.fromkeys((".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"), _ARCHIVE),
    ".mnc": ("a volume of MINC", "convert it to .nii.gz, for instance by mnc2nii"),
    **dict.fromkeys((".tif", ".tiff"), ("a TIFF image", _ONE_FILE)),
    **dict.fromkeys((".gipl", ".gipl.gz"), ("a GIPL volume", _ONE_FILE)),
    **dict.fromkeys((".vti", ".vtk"), ("a file of VTK", _ONE_FILE)),
}
_SCANS = (".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".img", ".dcm", ".dicom", ".ima", ".mgh")
_PACKERS = (".bz2", ".xz", ".zst", ".lz4", ".lzma", ".z", ".gz")
_UNFINISHED = (".part", ".partial", ".filepart", ".crdownload", ".download", ".icloud")
# What lies beside scans and is none, by name; it is never opened.
_BESIDE = re.compile(
    r"(readme|licen[cs]e|copying|changes|changelog|makefile|dicomdir|thumbs\.db|desktop\.ini"
    r"|(md5|sha(1|256))sums?|__macosx|@eadir|lost\+found|\$recycle\.bin)(\..*)?"
    r"|.*\.(json|txt|csv|tsv|md|rst|pdf|html?|xml|ya?ml|toml|png|jpe?g|gif|bmp|svg|log|db|ini|docx?"
    r"|xlsx?|pptx?|od[st]|bval|bvec|sh|py|m|mat|h5|tfm|stl|obj|ply|fcsv|mrml|md5|sha1|sha256|pth?"
    r"|ckpt|pkl)(\.gz)?",
    re.IGNORECASE | re.DOTALL,
)
_HEAD_BYTES = 1024
_GZIP = b"\x1f\x8b\x08"


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A file that may be a scan, and is not read.

    Attributes:
        stem: Its name without its suffixes.
        rule: What it breaks.
        message: What it is, and what to do.
    """

    stem: str
    rule: Rule
    message: str


def is_beside_scans(name: str) -> bool:
    """Whether by its name an entry is none of the scans: a text, a table, a picture, a licence."""
    return bool(_BESIDE.fullmatch(name))


def unread(path: Path) -> Unread | None:
    """What a file is that may be a scan and has no suffix that is read; None of any other.

    Raises:
        OSError: It cannot be opened.
    """
    name, small = path.name, path.name.lower()
    ended = next((suffix for suffix in _UNFINISHED if small.endswith(suffix)), None)
    if ended is not None:
        inner = name[: -len(ended)].lstrip(".")
        stem = _without(inner, (".nii.gz", *_SCANS, *_FORMATS))
        return Unread(stem=stem, rule="damaged", message=f"is an unfinished copy; {_COPY}")
    suffix = max((s for s in _FORMATS if small.endswith(s)), key=len, default=None)
    if suffix is not None:
        what, remedy = _FORMATS[suffix]
        stem = _without(name[: -len(suffix)], (".nii.gz", *_SCANS))
        return Unread(stem=stem, rule="format", message=f"is {what}; {remedy}")
    packer = next((s for s in _PACKERS if small.endswith(s)), None)
    if packer and small[: -len(packer)].endswith(_SCANS):
        stem = _without(name[: -len(packer)], _SCANS)
        return Unread(stem=stem, rule="format", message=f"is {_PACKED[0]}; {_PACKED[1]}")
    if is_beside_scans(name):
        return None
    what_inside = _content(path)
    if what_inside is None:
        return None
    format, right = what_inside
    stem = _before(name, (".nii", *_SCANS)) or os.path.splitext(name)[0]
    message = f"is {format} under a name that does not say so; rename it to end in {right}"
    return Unread(stem=stem, rule="format", message=message)


def _content(path: Path) -> tuple[str, str] | None:
    """The format by the first bytes, and the suffix that says so."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    packed = head.startswith(_GZIP)
    if packed:
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD_BYTES)
        except zlib.error:
            return None
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "NIfTI", ".nii.gz" if packed else ".nii"
    if head.startswith(b"NRRD000"):
        return "NRRD", ".nrrd"
    if head.startswith((b"ObjectType", b"NDims")):
        return "MetaImage", ".mha"
    return None


def _without(name: str, suffixes: tuple[str, ...]) -> str:
    """The name without the longest of the suffixes that it ends in."""
    ends = [suffix for suffix in suffixes if name.lower().endswith(suffix)]
    return name[: -len(max(ends, key=len))] if ends else name


def _before(name: str, suffixes: tuple[str, ...]) -> str:
    """What comes before the first of the suffixes in a name; empty where none is in it."""
    places = [name.lower().find(suffix) for suffix in suffixes]
    return name[: min((place for place in places if place > 0), default=0)]
