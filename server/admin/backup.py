"""A centre in one file, and back: keys, sites, runs, databases, the audit log.

The archive is a tar file with a list of its members' SHA-256 at its end.  Databases that are at
work are copied by SQLite's own backup, so that each is whole; every other file is replaced
atomically by those that write it, or appended to.
"""

import hashlib
import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from asdnet_models.fields import Frozen
from protocol.files import atomic_file, atomic_folder
from protocol.keys import PRIVATE_MODE
from server.admin.centre import Centre, CentreError, read_centre

_LIST = "backup.json"
_VERSION = 1
_DATABASES = ("superlink.db", "mlflow.db")
# What a start makes anew: unpacked apps, locks, drafts, updates of a round at work.
_LEFT_OUT = ("flower/", "serve.lock")
_EMPTY = ("flower", "logs", "runs")


class BackupList(Frozen):
    """What is in an archive.

    Attributes:
        version: Of this form.
        made: When.
        digests: SHA-256 of each member, by its name.
    """

    version: int
    made: AwareDatetime
    digests: dict[str, str]


def back_up(centre: Centre, out: Path) -> BackupList:
    """Write a centre into a new file, which only its owner can read.

    Args:
        centre: The centre; its studies may be at work.
        out: The archive; none is replaced.

    Raises:
        FileExistsError: There is such a file.
        OSError: A file cannot be read or written.
    """
    digests: dict[str, str] = {}
    with (
        atomic_file(out, mode=PRIVATE_MODE, overwrite=False) as draft,
        tarfile.open(draft, "w") as archive,
    ):
        for path in _files(centre.folder):
            name = path.relative_to(centre.folder).as_posix()
            mode = path.stat().st_mode & 0o777
            content = _database(path) if name in _DATABASES else path.read_bytes()
            digests[name] = hashlib.sha256(content).hexdigest()
            _add(archive, name, content, mode)
        made = BackupList(version=_VERSION, made=datetime.now(UTC), digests=digests)
        _add(archive, _LIST, made.model_dump_json(indent=2).encode(), PRIVATE_MODE)
    return made


def restore(file: Path, folder: Path) -> Centre:
    """Make a centre's folder from an archive, or nothing at all.

    Args:
        file: Written by `back_up`.
        folder: Where to; it must not exist, or be empty.

    Raises:
        CentreError: The archive is damaged or of another form, or something is in the folder.
        OSError: A file cannot be read or written.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CentreError(f"{folder}: is there already and is not empty; choose another --centre")
    try:
        with tarfile.open(file, "r:") as archive:
            listed = _list_of(archive, file)
            with atomic_folder(folder, mode=0o700) as draft:
                for name, digest in listed.digests.items():
                    _extract(archive, name, digest, draft, file)
                for name in _EMPTY:
                    (draft / name).mkdir(mode=0o700, exist_ok=True)
    except (tarfile.TarError, KeyError, EOFError) as error:
        raise CentreError(
            f"{file}: is no whole backup of a centre ({error}); use another"
        ) from None
    return read_centre(folder)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        draft = path.name.startswith(".draft-") or path.name.endswith(("lock", "-wal", "-shm"))
        # A log is put aside at any time, and nothing is begun anew with it.
        passing = path.parent.name == "updates" or path.parent == folder / "logs"
        if path.is_file() and not (draft or passing or name.startswith(_LEFT_OUT)):
            yield path


def _database(path: Path) -> bytes:
    """A whole copy of a database that others may be writing."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".draft-") as work:
        copy = Path(work) / path.name
        with (
            closing(sqlite3.connect(path)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return copy.read_bytes()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    member.mtime = int(datetime.now(UTC).timestamp())
    archive.addfile(member, io.BytesIO(content))


def _list_of(archive: tarfile.TarFile, file: Path) -> BackupList:
    stream = archive.extractfile(_LIST)
    try:
        listed = BackupList.model_validate_json(stream.read() if stream else b"")
    except ValidationError:
        raise CentreError(f"{file}: its list {_LIST} is damaged; use another backup") from None
    if listed.version != _VERSION:
        raise CentreError(
            f"{file}: is of form {listed.version}, this version reads {_VERSION}; restore it with"
            " the version that wrote it"
        )
    return listed


def _extract(archive: tarfile.TarFile, name: str, digest: str, folder: Path, file: Path) -> None:
    member = archive.getmember(name)
    archive.extract(member, folder, filter="data")
    path = folder / name
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise CentreError(f"{file}: {name} is not what was written; use another backup")
    os.chmod(path, member.mode & 0o777)


def unfinished(centre: Centre) -> list[str]:
    """Names of the runs that had not come to their end, each with its complete rounds."""
    from server.monitoring.follow import read_events
    from server.monitoring.run_folder import RunFolder
    from server.service.standing import standing

    found = []
    for path in sorted(centre.runs.glob("*/run.json")):
        stands = standing(read_events(RunFolder(path.parent).events))
        if not stands.done:
            found.append(f"{path.parent.name} (after round {stands.rounds})")
    return found
