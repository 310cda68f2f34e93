"""Rows of a CSV file that a person has written: each with its line, and mistakes of others."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Mistakes = list[tuple[int, str]]


@dataclass(frozen=True)
class CsvRows:
    """What a file holds.

    Attributes:
        rows: Line and cells by column, without blanks around either; columns in small letters.
        mistakes: Line and what is wrong with it.
    """

    rows: list[tuple[int, Mapping[str, str]]] = field(default_factory=list)
    mistakes: Mistakes = field(default_factory=list)


def csv_rows(
    path: Path,
    text: str,
    check_columns: Callable[[Path, Sequence[str]], None],
    error: type[ValueError],
    *,
    spare: bool = False,
) -> CsvRows:
    """The rows of a file's text; its first line that is not empty names the columns.

    Args:
        path: The file, for messages.
        text: Its content.
        check_columns: Called with the columns; raises where they are wrong.
        error: What is raised where fields are separated by something else than commas.
        spare: Whether empty fields may follow a row.
    """
    title = text.lstrip().partition("\n")[0]
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if mark in title and "," not in title:
            raise error(
                f"{path}: line 1: fields are separated by {name}; save it with commas between them"
            )
    found = CsvRows()
    columns: list[str] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            fields = [cell.strip() for cell in cells]
            if not any(fields):
                continue  # spreadsheets leave empty lines at the end
            if not columns:
                columns = [name.casefold() for name in fields]
                check_columns(path, columns)
                continue
            more = fields[len(columns) :]
            if len(fields) < len(columns) or (any(more) if spare else more):
                told = f"has {len(fields)} fields, the first line has {len(columns)}; correct it"
                found.mistakes.append((reader.line_num, told))
                continue
            found.rows.append((reader.line_num, dict(zip(columns, fields, strict=False))))
    except csv.Error as wrong:
        told = f"is no CSV ({wrong}); look for an open quote"
        found.mistakes.append((reader.line_num, told))
    return found
