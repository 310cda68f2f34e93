"""Lists the scans of a folder, and their case names; what may be a scan is never left out."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client.data.dicom.objects import SUFFIX, case_stem, is_dicom, is_dicom_folder
from client.data.errors import (
    NOT_THERE,
    Problem,
    ScanError,
)
from client.data.files.integrity import data_file
from client.data.folder.names import check_name, same_name
from client.data.folder.unread import is_beside_scans, unread
from protocol.escaping import escape

# ITK's reader by the suffix of a file.
IMAGE_IO = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".seg.nrrd": "NrrdImageIO",  # of 3D Slicer; before the suffix that it ends with
    ".seg.nhdr": "NrrdImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
}
_Kind = Literal["absent", "broken", "closed", "special", "file", "folder"]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a folder holds.

    Attributes:
        scans: By case name, sorted, every entry that is a scan or may be one; reading it, or
            `check_entry`, says why it cannot be used.
        passed_over: Names of what is no scan; hidden files are left out, but for scans.
    """

    scans: dict[str, list[Path]]
    passed_over: list[str]


def scan_files(folder: Path) -> dict[str, Path]:
    """The scans of a folder by case name, sorted: files without suffix, DICOM folders.

    Hidden files (macOS's `._*` among them) and files that are no scan are passed over; what may be
    one is in it, and reading it says why it cannot be used.

    Raises:
        ScanError: The folder is missing or closed, or two of its entries have one case name.
    """
    paths_of = list_folder(folder).scans
    for case, paths in paths_of.items():
        if len(paths) > 1:
            raise ScanError(**vars(double_problem(folder, case, paths)))
    return {case: paths[0] for case, paths in paths_of.items()}


def list_folder(folder: Path) -> Listing:
    """What a folder holds; of files, the first bytes are looked at where a name does not tell.

    Raises:
        ScanError: The folder is missing, or closed to this user.
    """
    _check_folder(folder)
    scans: dict[str, list[Path]] = {}
    maybe: dict[str, list[Path]] = {}
    over: list[str] = []
    for path in sorted(folder.iterdir()):
        if (known := _scan_name(path)) is not None:
            scans.setdefault(same_name(known), []).append(path)
        elif (possible := _possible_name(path)) is not None:
            maybe.setdefault(same_name(possible), []).append(path)
        elif not path.name.startswith(".") or _is_hidden_scan(path.name):
            over.append(path.name)
    voxels = {path.name for path in _voxel_files(p for paths in scans.values() for p in paths)}
    for case, paths in maybe.items():
        others = [path for path in paths if path.name not in voxels]
        if case in scans:  # it is read; what stands beside it under its name is not
            over += [path.name for path in others]
        elif others:
            scans[case] = others[:1]
    over = sorted(name for name in over if name not in voxels)
    return Listing(scans=dict(sorted(scans.items())), passed_over=over)


def check_entry(path: Path, location: str) -> None:
    """Refuse what cannot be read as a scan, before anything of it is given to a library.

    Raises:
        ScanError: It is not there, closed, a link to nowhere or no file; its name cannot be given
            to the libraries; or it is of a format that is not read.
    """
    check_name(path, location)
    kind = _kind(path)
    if kind == "absent":
        raise ScanError(location, "does not exist; check the name and the folder", rule="missing")
    if kind == "broken":
        raise ScanError(location, NOT_THERE, rule="missing")
    if kind == "closed":
        raise ScanError(location, "cannot be opened; check the permissions", rule="closed")
    if kind == "special":
        raise ScanError(location, "is a pipe, socket or device; give a file", rule="format")
    if kind == "folder":
        _check_tree(path, location)
    elif suffix_of(path) == path.name.lower():
        raise ScanError(location, "has no name before its suffix; name it by its case", rule="name")
    elif suffix_of(path) is None and not is_dicom(path):
        _check_format(path, location)


def case_name(path: Path) -> str:
    """A scan file's name without the suffix of its format; any other name as it is."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else case_stem(path)


def double_problem(folder: Path, case: str, paths: Sequence[Path]) -> Problem:
    """The problem of a case that several entries of a folder could be."""
    names = [path.name for path in paths]
    if len({same_name(name) for name in names}) == 1:
        message = (
            "is there more than once, its letters composed in one name and taken apart in another"
            " (Unicode NFC and NFD); keep one"
        )
        names = ["".join(c if c.isascii() else escape(c) for c in name) for name in names]
    else:
        message = "is there more than once; keep one"
    return Problem(
        rule="name",
        location=f"folder {folder.name}: case {case}",
        message=message,
        detail=", ".join(names),
    )


def suffix_of(path: Path) -> str | None:
    """The suffix of a format that is read here, in lower case; None of any other file."""
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_IO if name.endswith(suffix)), None)


def _kind(path: Path) -> _Kind:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return "closed"
        return "broken" if os.path.islink(path) else "absent"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "special"


def _check_folder(folder: Path) -> None:
    kind = _kind(folder)
    location = f"folder {folder.name}"
    if kind == "broken":
        raise ScanError(
            location, ": is a link to what is not there; mount or mend it", rule="missing"
        )
    if kind in ("file", "special"):
        raise ScanError(location, ": is no folder; correct the path", rule="missing")
    if kind == "absent":
        raise ScanError(location, ": does not exist; create it or correct the path", rule="missing")
    if kind == "closed" or not _opens(folder):
        raise ScanError(location, ": cannot be opened; check its permissions", rule="closed")


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def _scan_name(path: Path) -> str | None:
    """The case name of what is read as a scan; None of anything else."""
    suffix = suffix_of(path)
    if path.name.startswith("."):
        return path.name if suffix == path.name.lower() else None
    kind = _kind(path)
    if kind == "file" and (suffix is not None or is_dicom(path)):
        return case_name(path)
    return path.name if kind == "folder" and is_dicom_folder(path) else None


def _possible_name(path: Path) -> str | None:
    """The case name of what may be a scan and is not read; None of what is none."""
    kind, name = _kind(path), path.name
    if name.startswith("."):
        is_placeholder = kind == "file" and name.endswith(".icloud")
        found = unread(path) if is_placeholder else None
        return found.stem if found else None
    if is_beside_scans(name):
        return None
    if kind in ("broken", "closed"):
        return case_name(path)
    if kind == "special":
        is_named = suffix_of(path) is not None or path.suffix.lower() == SUFFIX
        return case_name(path) if is_named else None
    try:
        if kind == "folder":
            _check_tree(path, "")
            return None
        found = unread(path)
    except (ScanError, OSError):
        return case_name(path)
    return found.stem if found else None


def _check_tree(folder: Path, location: str) -> None:
    """Refuse a folder that holds no DICOM file, but a scan of another format, or nothing."""
    if not _opens(folder):
        raise ScanError(location, "cannot be opened; check its permissions", rule="closed")
    if is_dicom_folder(folder):
        return
    files = [
        Path(path, name)
        for path, _, names in os.walk(folder)
        for name in names
        if not name.startswith(".")
    ]
    if not files:
        raise ScanError(
            location, "is an empty folder; copy its files again, or remove it", rule="missing"
        )
    for file in sorted(file for file in files if _kind(file) != "special"):
        if suffix_of(file) is not None:
            raise ScanError(
                location,
                "is a folder without DICOM files, with a scan of another format in it; put the"
                " scan in its place, named by its case",
                rule="format",
                detail=file.name,
            )
        with suppress(OSError):
            if (found := unread(file)) is not None:
                raise ScanError(
                    location, f"holds what {found.message}", rule=found.rule, detail=file.name
                )


def _check_format(path: Path, location: str) -> None:
    try:
        found = unread(path)
    except OSError as error:
        raise ScanError(
            location, f"cannot be opened: {error.strerror}; check its permissions", rule="closed"
        ) from error
    if found is not None:
        raise ScanError(location, found.message, rule=found.rule)


def _is_hidden_scan(name: str) -> bool:
    """Whether a hidden file is named as a scan, by its user; neither a draft nor macOS's notes."""
    return suffix_of(Path(name)) is not None and not name.startswith(("._", ".draft-"))


def _voxel_files(scans: Iterable[Path]) -> Iterator[Path]:
    """The files that belong to .mhd and .nhdr headers."""
    for path in scans:
        with suppress(ScanError, OSError):
            data = data_file(path, location="") if _kind(path) == "file" else None
            if data is not None:
                yield data
