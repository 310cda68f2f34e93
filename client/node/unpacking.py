"""Unpacks approved bundles to the disk, from where they run."""

import logging
import os
import stat
from pathlib import Path, PurePosixPath

from protocol.agreement.bundle import Bundle
from protocol.files import atomic_folder

log = logging.getLogger(__name__)

PRIVATE_FOLDER = 0o700


def unpacked(bundle: Bundle, parent: Path) -> Path:
    """The folder of an approved bundle; built anew where anything in it differs."""
    folder = parent / bundle.digest
    if not _holds(folder, bundle):
        if os.path.lexists(folder):
            log.warning("%s/%s was changed and is built anew", parent.name, bundle.digest)
        _rebuild(folder, bundle)
    return folder


def _holds(folder: Path, bundle: Bundle) -> bool:
    """Whether a folder holds these files with this content, and nothing besides."""
    folders = {str(place) for path in bundle.files for place in PurePosixPath(path).parents}
    expected = set(bundle.files) | folders - {"."}
    try:
        mode = folder.lstat().st_mode
        if not stat.S_ISDIR(mode) or stat.S_IMODE(mode) != PRIVATE_FOLDER:
            return False
        # Links are not followed, so that what a linked folder should hold is missed.
        present = {
            (Path(place) / name).relative_to(folder).as_posix()
            for place, inner, files in os.walk(folder)
            for name in (*inner, *files)
        }
        return present == expected and all(
            stat.S_ISREG((folder / path).lstat().st_mode)
            and (folder / path).read_bytes() == content
            for path, content in bundle.files.items()
        )
    except OSError:
        return False


def _rebuild(folder: Path, bundle: Bundle) -> None:
    folder.parent.mkdir(parents=True, mode=PRIVATE_FOLDER, exist_ok=True)
    try:
        with atomic_folder(folder, mode=PRIVATE_FOLDER, durable=False) as draft:
            for path, content in bundle.files.items():
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_bytes(content)
    except OSError:
        if not _holds(folder, bundle):  # else another process was faster, and right
            raise
