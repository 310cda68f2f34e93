"""Lists the scans of a folder, and their case names."""

from collections.abc import Sequence
from pathlib import Path

from client.data.dicom.objects import case_stem, is_dicom, is_dicom_folder
from client.data.errors import (
    Problem,
    ScanError,
)

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


def scan_files(folder: Path) -> dict[str, Path]:
    """Readable scans of a folder by case name, sorted: files without suffix, DICOM folders.

    Hidden files (macOS's `._*` among them) and files of other kinds are passed over.

    Raises:
        ScanError: The folder is missing, or two of its entries have one case name.
    """
    paths_of = scan_entries(folder)
    for case, paths in paths_of.items():
        if len(paths) > 1:
            raise ScanError(**vars(double_problem(folder, case, paths)))
    return {case: paths[0] for case, paths in paths_of.items()}


def scan_entries(folder: Path) -> dict[str, list[Path]]:
    """As `scan_files`, with every entry that has the case's name.

    Raises:
        ScanError: The folder is missing.
    """
    if not folder.is_dir():
        raise ScanError(
            f"folder {folder.name}",
            ": does not exist; create it or correct the path",
            rule="missing",
        )
    paths_of: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        suffix = suffix_of(path)
        if path.name.startswith("."):
            continue
        if path.is_file() and (suffix is not None or is_dicom(path)):
            paths_of.setdefault(case_name(path), []).append(path)
        elif path.is_dir() and is_dicom_folder(path):
            paths_of.setdefault(path.name, []).append(path)
    return dict(sorted(paths_of.items()))


def case_name(path: Path) -> str:
    """A scan file's name without the suffix of its format; any other name as it is."""
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix else case_stem(path)


def double_problem(folder: Path, case: str, paths: Sequence[Path]) -> Problem:
    """The problem of a case that several entries of a folder could be."""
    return Problem(
        rule="name",
        location=f"folder {folder.name}: case {case}",
        message="is there more than once; keep one",
        detail=", ".join(path.name for path in paths),
    )


def suffix_of(path: Path) -> str | None:
    """The suffix of a format that is read here, in lower case; None of any other file."""
    name = path.name.lower()
    return next((suffix for suffix in IMAGE_IO if name.endswith(suffix)), None)
