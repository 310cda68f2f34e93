"""The site's table of patients: whose scan each case is, where headers do not say it.

A CSV file with the columns case and patient; others are left aside.  A row that is meant for a case
and does not reach it would let a patient into training and test, so every such row is a mistake.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.data.csv_rows import Mistakes, csv_rows
from client.data.folder.channels import FIRST_CHANNEL
from client.data.folder.entries import case_name
from client.data.folder.names import same_name
from protocol.config.study import ProtocolError

_COLUMNS = ("case", "patient")


@dataclass(frozen=True, kw_only=True)
class Patients:
    """What the table says of a site's cases.

    Attributes:
        of_case: Patient by case; cases in the table alone are there too.
        elsewhere: How many rows name no case of the folder.
    """

    of_case: Mapping[str, str]
    elsewhere: int


@dataclass(frozen=True, kw_only=True)
class _Row:
    line: int
    case: str
    patient: str


def read_patients(path: Path, cases: Collection[str]) -> Patients:
    """Patient by case, from a CSV file with the columns case and patient.

    Args:
        path: The file.
        cases: Names of all cases in the folder, used or not; a table may hold others too.

    Raises:
        ProtocolError: It cannot be read, or with every mistake and the number of its line: a row
            that names a case nearly, a case without patient or twice, a patient in two spellings;
            or no row names a case.
    """
    rows, mistakes = _read(path)
    known = set(cases)
    rowed = {row.case for row in rows}
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(row.case, row)
        if not row.case:
            mistakes.append((row.line, "names no case; write one"))
        elif other is not row:
            mistakes.append(
                (row.line, f"names a case twice, {row.case!r} is in line {other.line}; keep one")
            )
        elif near := _near(row.case, known, rowed):
            mistakes.append((row.line, f"case {row.case!r} is no case here, {near!r} is; correct"))
        elif not row.patient and row.case in known:
            mistakes.append(
                (row.line, f"case {row.case!r} has no patient; write one, or take the line out")
            )
    here = [row for row in first.values() if row.case in known]
    mistakes += _spellings(here)
    if known and not here and not mistakes:
        mistakes.append(
            (
                0,
                f"none of its {len(rows)} rows names a case of the data folder; write names of"
                " files without their suffix",
            )
        )
    if mistakes:
        raise ProtocolError("\n".join(_lines(path, mistakes)))
    table = {row.case: row.patient for row in first.values() if row.patient}
    return Patients(of_case=table, elsewhere=len(first) - len(here))


def _lines(path: Path, mistakes: Mistakes) -> Iterator[str]:
    for line, text in sorted(mistakes):
        yield f"{path}: line {line}: {text}" if line else f"{path}: {text}"


def _near(name: str, known: set[str], rowed: set[str]) -> str | None:
    """The case that a row means but does not name: its file, or other capitals, blanks or zeros."""
    if name in known:
        return None
    stem = case_name(Path(name))
    for file in (stem, stem.removesuffix(FIRST_CHANNEL)):
        if file in known:
            return file
    folded = _folded(stem.removesuffix(FIRST_CHANNEL))
    return next((n for n in sorted(known - rowed) if _folded(n) == folded), None)


def _folded(name: str) -> str:
    """Equal where names differ by capitals, by blanks, hyphens and such, or by zeros in front."""
    plain = re.sub(r"[\W_]+", "_", name.casefold()).strip("_")
    return re.sub(r"(?<!\d)0+(?=\d)", "", plain)


def _spellings(rows: list[_Row]) -> Iterator[tuple[int, str]]:
    """One patient written in two ways is two patients, whom nothing keeps together."""
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(_folded(row.patient), row)
        if other.patient != row.patient and row.patient:
            yield (
                row.line,
                f"patient {row.patient!r} is {other.patient!r} in line {other.line}; write one"
                " patient in one way, and two by more than capitals, blanks or zeros",
            )


def _read(path: Path) -> tuple[list[_Row], Mistakes]:
    """The rows, and what is wrong with others."""
    found = csv_rows(path, _text(path), _check_columns, ProtocolError, spare=True)
    if not found.rows and not found.mistakes:
        raise ProtocolError(f"{path}: must have the columns case and patient, and a row")
    rows = []
    for line, cells in found.rows:
        case, patient = (same_name(cells[name]) for name in _COLUMNS)
        rows.append(_Row(line=line, case=case, patient=patient))
    return rows, found.mistakes


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProtocolError(
            f"{path}: cannot be read ({error.strerror}); correct `patients`"
        ) from None
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
            raise ProtocolError(f"{path}: is in UTF-16; save it as CSV in UTF-8")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ProtocolError(
            f"{path}: line {line}: is not in UTF-8; save the file as CSV in UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    wrong = [
        f"{path}: line 1: {'lacks' if not count else 'has twice'} the column {name}; it must have"
        " the columns case and patient"
        for name in _COLUMNS
        if (count := columns.count(name)) != 1
    ]
    if wrong:
        raise ProtocolError("\n".join(wrong))
