"""Names of files: which of them the libraries that read scans can open, and which are the same."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Literal

from client.data.errors import Problem, ScanError

_ENDS = {"image": r"0000|images?|img", "label": r"labels?|masks?|seg(mentation)?|gt"}


def same_name(name: str) -> str:
    """The name with its letters composed (Unicode NFC): macOS writes them taken apart (NFD)."""
    return unicodedata.normalize("NFC", name)


def core_of(name: str, what: Literal["image", "label"]) -> str:
    """What is left of a name without what is often a slip: equal cores are nearly equal names.

    Capitals, blanks, hyphens and underscores count for nothing, nor does an end that says what a
    file is: `Case 01_0000` of an image and `case01_seg` of a label have one core.
    """
    letters = re.sub(r"[\W_]+", "", same_name(name).casefold())
    return re.sub(rf"(?<=.)({_ENDS[what]})$", "", letters)


def is_utf8(name: str) -> bool:
    """Whether what the file system holds of a name, or a path, are the bytes of UTF-8."""
    try:
        return name.encode() == os.fsencode(name)
    except UnicodeEncodeError:
        return False


def check_name(path: Path, location: str) -> None:
    """Refuse a path that must not be given to SimpleITK: at one that is not UTF-8 it aborts.

    Raises:
        ScanError: A name on the way is not UTF-8, or the suffix is none of the NIfTI library's.
    """
    if (problem := utf8_problem(path, location)) is not None:
        raise ScanError(**vars(problem))
    if _is_mixed_nifti(path.name) and not os.path.isdir(path):
        raise ScanError(
            location,
            "has a suffix of small and capital letters, which the NIfTI library does not take;"
            " rename it, with .nii or .nii.gz",
            rule="name",
        )


def utf8_problem(path: Path, location: str) -> Problem | None:
    """What is wrong with a path that is not UTF-8 throughout."""
    foreign = next((part for part in reversed(path.parts) if not is_utf8(part)), None)
    if foreign is None:
        return None
    what = "has a name that" if foreign == path.name else "lies in a folder whose name"
    return Problem(
        rule="name",
        location=location,
        message=f"{what} is not UTF-8; rename it, for instance with convmv",
        detail="" if foreign == path.name else foreign,
    )


def _is_mixed_nifti(name: str) -> bool:
    suffix = next((name[-len(s) :] for s in (".nii.gz", ".nii") if name.lower().endswith(s)), "")
    return suffix not in (suffix.lower(), suffix.upper())
