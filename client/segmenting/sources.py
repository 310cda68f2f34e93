"""Finds the scans given to a command: files, DICOM folders, and folders of many of either."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.dicom.headers import load, quiet, text
from client.data.dicom.objects import dicom_files, is_dicom_folder
from client.data.entries import (
    case_name,
    scan_entries,
)
from client.data.errors import ScanError

_CHANNEL = "_0000"  # a channel's number is no part of a case's name (layout.py)
_STUDY_UID = "StudyInstanceUID"


class SourceError(ValueError):
    """Inputs that name no scan, or two scans alike; one line for each mistake."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One scan to be segmented.

    Attributes:
        name: The case's name; it may be a patient's, and stays at the site.
        path: A file, or the folder of a DICOM series or of a tree that holds one.
    """

    name: str
    path: Path

    @property
    def is_dicom(self) -> bool:
        """Whether it is a folder of DICOM files."""
        return self.path.is_dir()


def find_sources(inputs: Iterable[Path], *, leave_out: Path) -> tuple[Source, ...]:
    """Every scan of the inputs, in their order; nothing is opened but DICOM headers.

    A folder that holds DICOM files itself is one case, and so is one whose subfolders are all
    series of one DICOM study.  Of another folder, each scan file in it and each subfolder that
    holds DICOM files, at any depth, is a case.

    Args:
        inputs: Files and folders.
        leave_out: A folder to pass over, where results go.

    Raises:
        SourceError: With every mistake: an input without scans, or one case name twice.
    """
    paths_of: dict[str, list[Path]] = {}
    mistakes = []
    for path in inputs:
        try:
            for source in _of_input(path, leave_out.resolve()):
                paths = paths_of.setdefault(source.name, [])
                if source.path.resolve() not in [path.resolve() for path in paths]:
                    paths.append(source.path)
        except ScanError as error:
            mistakes.append(str(error))
    for name, paths in paths_of.items():
        if len(paths) > 1:
            shown = ", ".join(str(path) for path in paths[:3])
            mistakes.append(
                f"case {name}: is there {len(paths)} times ({shown}); give each case a name of"
                " its own, or segment them into different folders"
            )
    if mistakes:
        raise SourceError("\n".join(mistakes))
    return tuple(Source(name=name, path=paths[0]) for name, paths in paths_of.items())


def _of_input(path: Path, leave_out: Path) -> list[Source]:
    if path.is_file():
        return [Source(name=_without_channel(case_name(path)), path=path)]
    if not path.is_dir():
        raise ScanError(f"input {path}", "does not exist; correct the path", rule="missing")
    if any(_is_visible_dicom(file) for file in path.iterdir()):
        return [Source(name=path.resolve().name, path=path)]
    entries = {
        name: [entry for entry in paths if entry.resolve() != leave_out]
        for name, paths in scan_entries(path).items()
    }
    every_path = [entry for paths in entries.values() for entry in paths]
    if not every_path:
        raise ScanError(
            f"input {path}",
            "holds no scan; give scan files (.nii.gz, .nii, .mha, .mhd, .nrrd), a DICOM folder, or"
            " the folder that holds them",
            rule="missing",
        )
    if _are_series_of_one_study(every_path):
        return [Source(name=path.resolve().name, path=path)]
    return [
        Source(name=_without_channel(name), path=entry)
        for name, paths in entries.items()
        for entry in paths
    ]


def _without_channel(name: str) -> str:
    return name.removesuffix(_CHANNEL) or name


def _is_visible_dicom(file: Path) -> bool:
    if not file.is_file() or file.name.startswith(".") or file.name == "DICOMDIR":
        return False
    if file.suffix.lower() == ".dcm":
        return True
    with file.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _are_series_of_one_study(paths: Sequence[Path]) -> bool:
    """Whether several entries are DICOM folders, all of one study: parts of one case."""
    if len(paths) < 2 or not all(path.is_dir() and is_dicom_folder(path) for path in paths):
        return False
    studies = {_study(path) for path in paths}
    return len(studies) == 1 and "" not in studies


@quiet()
def _study(folder: Path) -> str:
    """StudyInstanceUID of a folder's first readable DICOM file; empty where there is none."""
    for file in dicom_files(folder):
        try:
            header = load(file, location="", tags=("SOPClassUID", "Rows", _STUDY_UID))
        except ScanError:
            continue
        return text(header, _STUDY_UID)
    return ""
