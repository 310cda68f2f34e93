"""App bundles: the code that the centre sends to a site, read and compared but never run.

A bundle (Flower's FAB) is a zip of source files with a manifest of their digests.  It comes over
the network, so nothing of it is trusted: neither its names, nor its sizes, nor its manifest.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import re
import stat
import struct
import tokenize
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flower_compat.bundle import build_bundle
from protocol.agreement.importable import import_mistakes
from protocol.escaping import printable, visible

MAX_PACKED_BYTES = 10 * 2**20
MAX_UNPACKED_BYTES = 50 * 2**20
SUFFIXES = frozenset({".json", ".jsonl", ".md", ".py", ".toml", ".yaml", ".yml"})

_MANIFEST = ".info/CONTENT"
_PROJECT = "pyproject.toml"
_LICENSE = "LICENSE"
_MAX_NAME = 255  # characters
_MAX_DEPTH = 10  # folders, as Flower has it
_MAX_LISTED = 10  # mistakes in one message: a hostile bundle may have a hundred thousand
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # bit of a zip entry's flags
# What zipfile raises for bytes that only look like a zip.
_UNREADABLE = (
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class BundleError(ValueError):
    """A bundle that is refused whoever sent it, with what is wrong with it."""


@dataclass(frozen=True)
class Bundle:
    """The files of a bundle by path, and the digest that is the identity of this code.

    The digest is the SHA-256 of the sorted lines `<SHA-256 of the content>  <path>` of all files,
    so that neither the order nor the compression of the zip counts.
    """

    files: Mapping[str, bytes]
    digest: str


def read_bundle(fab: bytes) -> Bundle:
    """The files of a bundle, in memory; nothing is written or run.

    Raises:
        BundleError: Not a zip, too large, a name or kind of entry that no honest bundle has, no
            pyproject.toml, or a manifest that is missing or disagrees with the content.
    """
    if len(fab) > MAX_PACKED_BYTES:
        raise BundleError(f"app bundle: is {len(fab)} bytes, over the limit of {MAX_PACKED_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(fab)) as archive:
            _check_entries(archive.infolist())
            files = dict(_contents(archive))
    except BundleError:
        raise
    except _UNREADABLE as error:
        reason = _in_line(str(error)) or type(error).__name__
        raise BundleError(f"app bundle: cannot be read as a zip: {reason}") from error
    _check_manifest(files.pop(_MANIFEST, None), files)
    if _PROJECT not in files:
        raise BundleError(f"app bundle: has no {_PROJECT}")
    return Bundle(files, _digest(files))


def installed_bundle(root: Path | None = None) -> Bundle:
    """What this site's own checkout would send, had it to send its code to itself.

    Args:
        root: A checkout; by default the one that the running packages come from.

    Raises:
        BundleError: No bundle can be made of the checkout, or Python would import something that
            is not in it.
    """
    place = root or Path(__file__).resolve().parents[2]
    try:
        bundle = read_bundle(build_bundle(place))
        mistakes = import_mistakes(place, bundle.files, running=root is None)
    except (OSError, ValueError) as error:
        raise _not_clean(place, str(error)) from error
    if mistakes:
        raise _not_clean(place, printable("; ".join(mistakes)))
    return bundle


def _not_clean(root: Path, reason: str) -> BundleError:
    return BundleError(
        f"installed version in {root}: {reason}; install it from a clean checkout with"
        " make install ROLE=site"
    )


def difference(old: Bundle | None, new: Bundle) -> str:
    """What `new` has that `old` has not, for a person to read: a summary, then unified diffs.

    Only printable ASCII, tabs and line ends are shown as they are (see `visible`).
    """
    before = {} if old is None else old.files
    summary: list[str] = []
    details: list[str] = []
    for path in sorted(before.keys() | new.files.keys()):
        was, now = before.get(path), new.files.get(path)
        if was == now:
            continue
        lines = _diff(path, was, now)
        plus = sum(line.startswith("+") for line in lines[2:])
        minus = sum(line.startswith("-") for line in lines[2:])
        verb = "added" if was is None else "removed" if now is None else "changed"
        summary.append(f"{verb:<8} {path} (+{plus} -{minus} lines)\n")
        details += ["\n", *_notes(path, now), *lines]
    return visible("".join(summary + details)) or "no difference\n"


def _in_line(text: str) -> str:
    """For a message: hostile names must not begin a line of the log, nor fill it."""
    return visible(text[:_MAX_NAME]).replace("\n", r"\n")


def _digest(files: Mapping[str, bytes]) -> str:
    lines = sorted(f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    """Refuse what must not even be read: by names first, for the rest relies on them."""
    _refuse(
        f"{_in_line(entry.orig_filename)}: {mistake}"
        for entry in entries
        for mistake in _entry_mistakes(entry)
    )
    _refuse(_clashes(entry.orig_filename for entry in entries))
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_UNPACKED_BYTES:
        raise BundleError(
            f"app bundle: unpacks to {unpacked} bytes, over the limit of {MAX_UNPACKED_BYTES}"
        )


def _refuse(mistakes: Iterable[str]) -> None:
    listed = list(mistakes)
    if listed:
        more = f"; and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
        raise BundleError(f"app bundle: {'; '.join(listed[:_MAX_LISTED])}{more}")


def _entry_mistakes(entry: zipfile.ZipInfo) -> Iterator[str]:
    # Not entry.filename, which zipfile has cut at the first NUL and adapted to this system.
    name = entry.orig_filename
    parts = name.split("/")
    if name.startswith("/"):
        yield "is an absolute path"
    elif "\\" in name:
        yield "has a backslash in its name"
    elif any(part in ("", ".", "..") for part in parts):
        yield "is not a normal relative path of a file"
    elif len(name) > _MAX_NAME or len(parts) > _MAX_DEPTH + 1:
        yield f"is longer than {_MAX_NAME} characters or deeper than {_MAX_DEPTH} folders"
    elif (
        not name.isprintable()
        or name != unicodedata.normalize("NFC", name)
        or re.search(r'[,:*?"<>|]', name)  # a comma would split a line of the manifest
        or any(part[-1] in " ." or part[0] == " " for part in parts)
    ):
        yield "has a character in its name that not every system keeps"
    elif name not in (_MANIFEST, _LICENSE) and (
        PurePosixPath(name).suffix not in SUFFIXES or parts[0] == ".info"
    ):
        yield f"is not of a type that Flower bundles ({' '.join(sorted(SUFFIXES))})"
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        yield "is a link or other special file"
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _COMPRESSIONS:
        yield "is encrypted or compressed by other means than deflate"


def _clashes(names: Iterable[str]) -> Iterator[str]:
    """Names that not every file system keeps apart: twice, other in case only, file and folder."""
    seen: dict[str, tuple[str, bool]] = {}
    for name in names:
        for path in (name, *map(str, list(PurePosixPath(name).parents)[:-1])):
            is_file = path == name
            key = unicodedata.normalize("NFKC", path).casefold()
            if key in seen and (is_file or seen[key] != (path, is_file)):
                yield f"{_in_line(path)} and {_in_line(seen[key][0])} cannot both be there"
            seen.setdefault(key, (path, is_file))


def _contents(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Every file, read no further than the limit: the sizes that a zip declares may be lies."""
    left = MAX_UNPACKED_BYTES
    for entry in archive.infolist():
        with archive.open(entry) as stream:
            content = stream.read(left + 1)
        left -= len(content)
        if left < 0:
            raise BundleError(f"app bundle: unpacks to over the limit of {MAX_UNPACKED_BYTES}")
        yield entry.orig_filename, content


def _check_manifest(manifest: bytes | None, files: Mapping[str, bytes]) -> None:
    if manifest is None:
        raise BundleError(f"app bundle: has no manifest {_MANIFEST}")
    listed = manifest.decode("utf-8", "surrogateescape").split("\n")
    true = [
        f"{path},{hashlib.sha256(content).hexdigest()},{8 * len(content)}"
        for path, content in files.items()
    ]
    if sorted(listed) != sorted(true):
        wrong = sorted({line.partition(",")[0] for line in set(listed) ^ set(true)})
        named = ", ".join(_in_line(path) for path in wrong[:_MAX_LISTED])
        raise BundleError(
            f"app bundle: its manifest disagrees with its files: {named or 'a line is there twice'}"
        )


def _notes(path: str, content: bytes | None) -> Iterator[str]:
    """What a reader of the diff must know besides."""
    if content is None:
        return
    try:
        content.decode()
    except UnicodeDecodeError:
        yield f"! {path} is not UTF-8: the bytes that are not are shown as \\x..\n"
    if path.endswith(".py"):
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        except SyntaxError:
            encoding = "nothing: the file cannot be imported"
        if not encoding.startswith("utf-8"):
            # `# coding: unicode_escape` would let comments hold line ends, and so statements.
            yield f"! Python reads {path} as {encoding}: what runs may not be what is shown\n"


def _diff(path: str, old: bytes | None, new: bytes | None) -> list[str]:
    """A unified diff whose first two lines name the file; of raw lines, not yet escaped."""
    diff = difflib.unified_diff(
        _lines(old),
        _lines(new),
        "/dev/null" if old is None else f"old/{path}",
        "/dev/null" if new is None else f"new/{path}",
    )
    ended = [
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in diff
    ]
    return ended or [f"--- {path}\n", "+++ is empty\n"]


def _lines(content: bytes | None) -> list[str]:
    # Not str.splitlines, which splits at characters that a diff must show.
    text = (content or b"").decode("utf-8", "surrogateescape")
    return io.StringIO(text, newline="\n").readlines()
