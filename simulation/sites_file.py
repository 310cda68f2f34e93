"""Reads --sites-file: which hospital each case is of, for cohorts that have real centres.

A CSV file with the columns case and site, and if wanted split and group:

    case,site,split,group
    DCM_patient001,DCM,,patient001
    NOR_patient061,NOR,test,

Split is train, validation, test or unlabelled; where it is empty, the folds decide.  Cases of one
group, such as two scans of a patient, are never split over parts or folds.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.data.case import Part
from client.data.csv_rows import Mistakes, csv_rows
from client.data.folder.channels import FIRST_CHANNEL
from client.data.folder.entries import case_name
from client.data.folder.names import same_name
from protocol.config.site import SITE_NAME
from simulation.errors import SplitError
from simulation.layouts import CohortFiles, StudyCase, labelled_case

_COLUMNS = ("case", "site", "split", "group")
_SPLITS = ("train", "validation", "test", "unlabelled", "")
_PART_OF: Mapping[str, Part] = {"validation": "validation", "test": "test"}
# What a case is for, as far as its group is concerned: an unlabelled scan is trained on.
_SIDE = {"train": "training", "unlabelled": "training"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the file; `line` is its number."""

    line: int
    case: str
    site: str
    split: str
    group: str


def assigned_cases(path: Path, files: CohortFiles) -> list[StudyCase]:
    """Every case of a folder with its site, and its part where the file says one.

    Args:
        path: The file.
        files: Of the folder.

    Raises:
        SplitError: With every mistake of the file and the number of its line.
    """
    rows, mistakes = _read(path)
    known = {_plain(name): name for name in (*files.images, *files.pool)}
    placed: dict[str, Row] = {}
    for row in rows:
        name = known.get(_plain(row.case)) or known.get(
            _plain(row.case).removesuffix(FIRST_CHANNEL)
        )
        if name is None and row.case:
            hint = "" if case_name(Path(row.case)) == row.case else " (names have no suffix)"
            mistakes.append((row.line, f"case {row.case!r} is not in the folder{hint}; correct it"))
        elif name in placed:
            first = placed[name].line
            mistakes.append((row.line, f"case {row.case!r} is in line {first} already; keep one"))
        elif name:
            pooled = name in files.pool and not row.split
            placed[name] = replace(row, split="unlabelled") if pooled else row
        mistakes += [(row.line, text) for text in _row_mistakes(row, name, files)]
    mistakes += _group_mistakes(placed.values())
    mistakes += _site_mistakes(placed.values())
    lines = [f"{path}: line {line}: {text}" for line, text in sorted(mistakes) if line]
    lines += [f"{path}: {text}" for line, text in mistakes if not line]
    if rows:
        lines += [
            f"{path}: has no line for case {name}; add one, or take the case out of the folder"
            for name in sorted(set(known.values()) - placed.keys())
        ]
    if lines:
        raise SplitError("\n".join(lines))
    cases = [_case(files, name, row) for name, row in placed.items()]
    return sorted(cases, key=lambda case: (case.site, case.part, case.name))


def assignment_digest(cases: Iterable[StudyCase]) -> str:
    """SHA-256 of who is where: another one is another study, however the file is written."""
    content = sorted(
        (_plain(case.name), case.site, case.part, case.fixed, case.group) for case in cases
    )
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _case(files: CohortFiles, name: str, row: Row) -> StudyCase:
    if name in files.pool:
        return StudyCase(
            name=name,
            image=files.pool[name],
            label=None,
            reference=files.withheld.get(name),
            site=row.site,
            part="unlabelled",
            group=row.group,
        )
    case = replace(labelled_case(files, name, row.site), group=row.group, fixed=row.split != "")
    if row.split == "unlabelled":
        return replace(case, part="unlabelled", label=None, reference=case.label)
    return replace(case, part=_PART_OF.get(row.split, "labelled"))


def _read(path: Path) -> tuple[list[Row], Mistakes]:
    """The rows that have a case and a site, and what is wrong with others; line 0 is the file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SplitError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    except UnicodeDecodeError:
        raise SplitError(f"{path}: is not in UTF-8; save it as CSV in UTF-8") from None
    found = csv_rows(path, text, _check_columns, SplitError)
    if not found.rows and not found.mistakes:
        raise SplitError(f"{path}: holds no case; it has a line case,site,split,group and others")
    rows = [
        Row(
            line=line,
            case=cells["case"],
            site=cells["site"],
            split=cells.get("split", "").casefold(),
            group=same_name(cells.get("group", "")),
        )
        for line, cells in found.rows
    ]
    return rows, found.mistakes


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    mistakes = []
    for name in ("case", "site"):
        if name not in columns:
            mistakes.append(f"{path}: line 1: lacks the column {name}; add it")
    for name in sorted(set(columns)):
        if name not in _COLUMNS:
            mistakes.append(
                f"{path}: line 1: the column {name!r} is none of {', '.join(_COLUMNS)}; correct or"
                " remove it"
            )
        elif columns.count(name) > 1:
            mistakes.append(f"{path}: line 1: the column {name} is there twice; keep one")
    if mistakes:
        raise SplitError("\n".join(mistakes))


def _row_mistakes(row: Row, name: str | None, files: CohortFiles) -> Iterator[str]:
    if not row.case:
        yield "names no case; write one"
    if not row.site:
        yield "names no site; write one"
    elif not SITE_NAME.fullmatch(row.site):
        yield (
            f"site {row.site[:40]!r} is no name of a site: 1 to 32 letters, digits, - and _,"
            " beginning with a letter or digit"
        )
    elif row.site.casefold() == "all":
        yield f"site {row.site!r} would be taken for all sites together; name it otherwise"
    if row.split not in _SPLITS:
        allowed = ", ".join(filter(None, _SPLITS))
        yield f"split {row.split[:40]!r} is none of {allowed}; leave it empty for the folds"
    elif name in files.pool and row.split not in ("", "unlabelled"):
        yield f"case {row.case!r} has no label, so cannot be {row.split}; write unlabelled"


def _group_mistakes(rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
    """Cases of one group that would not stay together."""
    of_group: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.group:
            of_group[row.group].append(row)
    for group, members in of_group.items():
        first = members[0]
        for row in members[1:]:
            if row.site != first.site:
                yield (
                    row.line,
                    f"group {group!r} is at site {first.site} in line {first.line} and here at"
                    f" {row.site}; keep a group at one site",
                )
            sides = [_SIDE.get(item.split, item.split) for item in (first, row)]
            if sides[0] != sides[1]:
                yield (
                    row.line,
                    f"group {group!r} is {first.split or 'without a split'} in line {first.line}"
                    f" and {row.split or 'without one'} here; keep a group in one part",
                )


def _site_mistakes(rows: Iterable[Row]) -> Iterator[tuple[int, str]]:
    """Sites that could not take part, and names that one folder cannot hold."""
    of_site: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        of_site[row.site].append(row.split)
    first_like: dict[str, str] = {}
    for site, splits in of_site.items():
        other = first_like.setdefault(site.casefold(), site)
        if other != site:
            yield 0, f"sites {other} and {site} differ by capitals alone; rename one"
        if SITE_NAME.fullmatch(site) and set(splits) <= {"test", "validation"}:
            yield 0, f"site {site} has no case to train on; give it one, or another site's name"
    every = [split for splits in of_site.values() for split in splits]
    if every and not {"train", ""} & set(every):
        yield 0, "no case is trained on with its label; leave some splits empty, or write train"
    if every and not {"test", ""} & set(every):
        yield 0, "no case is tested on; leave some splits empty, or write test"


def _plain(name: str) -> str:
    return same_name(" ".join(name.split()))
