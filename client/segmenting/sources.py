"""Finds the scans given to a command: files, DICOM folders, and folders of many of either."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.dicom.headers import load, quiet, text
from client.data.dicom.objects import dicom_files, is_dicom, is_dicom_folder
from client.data.errors import Problem, ScanError
from client.data.folder.channels import FIRST_CHANNEL
from client.data.folder.entries import (
    case_name,
    double_problem,
    list_folder,
    suffix_of,
)
from client.data.folder.names import same_name

_STUDY_UID = "StudyInstanceUID"


class SourceError(ValueError):
    """Inputs that name no scan, or two scans alike; one line for each mistake."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One scan to be segmented.

    Attributes:
        name: The case's name; it may be a patient's, and stays at the site.
        path: A file, or the folder of a DICOM series or of a tree that holds one.
        problem: Why it cannot be segmented, where its names alone tell.
    """

    name: str
    path: Path
    problem: Problem | None = None

    @property
    def is_dicom(self) -> bool:
        """Whether it is DICOM: a folder, or a file by its content."""
        return is_dicom(self.path)

    def check(self) -> None:
        """Raise what its names alone tell.

        Raises:
            ScanError: Its `problem`.
        """
        if self.problem is not None:
            raise ScanError(**vars(self.problem))


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is to be segmented.

    Attributes:
        scans: Cases of different names.
        passed_over: What of the inputs is no case.
    """

    scans: tuple[Source, ...]
    passed_over: tuple[Path, ...]


def find_sources(inputs: Iterable[Path], *, leave_out: Path) -> Sources:
    """Every scan of the inputs, in their order, and what is none.

    A folder that holds DICOM files itself is one case, and so is one whose subfolders are all
    series of one DICOM study.  Of another folder, each scan file in it and each subfolder that
    holds DICOM files, at any depth, is a case, and so is what may be a scan and cannot be read:
    segmenting it says why, and stops no other.

    Args:
        inputs: Files and folders.
        leave_out: A folder to pass over, where results go.

    Raises:
        SourceError: With every mistake: an input that is not there or holds no scan, or one case
            name in two inputs.
    """
    found: dict[str, list[Source]] = {}
    mistakes = []
    over: list[Path] = []
    for path in inputs:
        try:
            sources = _of_input(path, _real(leave_out), over)
        except ScanError as error:
            mistakes.append(str(error))
            continue
        for source in sources:
            known = found.setdefault(source.name, [])
            if _real(source.path) not in [_real(other.path) for other in known]:
                known.append(source)
    for name, sources in found.items():
        if len(sources) > 1:
            shown = ", ".join(str(source.path) for source in sources[:3])
            mistakes.append(
                f"case {name}: is there {len(sources)} times ({shown}); give each case a name of"
                " its own, or segment them into different folders"
            )
    if mistakes:
        raise SourceError("\n".join(mistakes))
    scans = tuple(sources[0] for sources in found.values())
    return Sources(scans=scans, passed_over=tuple(over))


def _of_input(path: Path, leave_out: str, over: list[Path]) -> list[Source]:
    if not os.path.lexists(path):
        raise ScanError(f"input {path}", "does not exist; correct the path", rule="missing")
    own_name = Path(os.path.abspath(path)).name
    if not os.path.isdir(path):
        return [Source(name=_without_channel(same_name(case_name(path))), path=path)]
    try:
        visible = sorted(file for file in path.iterdir() if not file.name.startswith("."))
        if _is_one_case(visible):
            over += [file for file in visible if suffix_of(file) is not None]
            return [Source(name=same_name(own_name), path=path)]
        listing = list_folder(path)
    except (ScanError, OSError):  # closed: segmenting it says so
        return [Source(name=same_name(own_name), path=path)]
    over += [path / name for name in listing.passed_over if _real(path / name) != leave_out]
    entries = {
        name: [entry for entry in paths if _real(entry) != leave_out]
        for name, paths in listing.scans.items()
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
        return [Source(name=same_name(own_name), path=path)]
    return [
        Source(name=_without_channel(name), path=paths[0], problem=_problem_of(path, name, paths))
        for name, paths in entries.items()
        if paths
    ]


def _problem_of(folder: Path, name: str, paths: Sequence[Path]) -> Problem | None:
    """What the names of a case's entries tell against it."""
    if len(paths) > 1:
        return double_problem(folder, name, paths)
    if not os.path.isdir(paths[0]) or is_dicom_folder(paths[0]):
        return None
    try:
        holds_scans = bool(list_folder(paths[0]).scans)
    except ScanError:  # closed: segmenting it says so
        return None
    message = "is a folder of scans, not of DICOM slices; give it as an input of its own"
    return Problem(rule="format", location=f"case {name}", message=message) if holds_scans else None


def _real(path: Path) -> str:
    """The path without links; unlike `Path.resolve`, of a link that leads round too."""
    return os.path.realpath(path)


def _without_channel(name: str) -> str:
    return name.removesuffix(FIRST_CHANNEL) or name


def _is_one_case(visible: Sequence[Path]) -> bool:
    """Whether what lies in a folder are the DICOM files of one case, not a file or more each."""
    files = [path for path in visible if _is_dicom_file(path)]
    if not files:
        return False
    study = _study(files[0])
    others = any(
        suffix_of(path) is not None or (os.path.isdir(path) and _study(path) not in ("", study))
        for path in visible
        if path not in files
    )
    return not others or any(map(_is_slice, files))


@quiet()
def _is_slice(file: Path) -> bool:
    """Whether a DICOM file is an image of one frame, so that others belong to it."""
    try:
        header = load(file, location="", tags=("SOPClassUID", "Rows", "NumberOfFrames"))
    except ScanError:
        return False
    return "Rows" in header and text(header, "NumberOfFrames") in ("", "0", "1")


def _is_dicom_file(file: Path) -> bool:
    return file.name != "DICOMDIR" and os.path.isfile(file) and is_dicom(file)


def _are_series_of_one_study(paths: Sequence[Path]) -> bool:
    """Whether several entries are DICOM folders, all of one study: parts of one case."""
    if len(paths) < 2 or not all(os.path.isdir(path) and is_dicom_folder(path) for path in paths):
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
