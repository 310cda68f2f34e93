"""The elements of a report.  Tables are also written as CSV, pictures as files."""

import base64
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph.

    Attributes:
        tone: The look of its box; "" has none.
    """

    kind: ClassVar[str] = "text"
    text: str
    tone: Literal["", "caution", "good", "bad"] = ""


@dataclass(frozen=True, kw_only=True)
class Bullets:
    """Sentences, one below the other."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of a table under one heading; the first cell of a row is its name."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to read, and the same as records for a CSV.

    Attributes:
        name: Of the CSV; empty for none.
        records: Unrounded numbers, None as an empty cell; all of the same keys.
        sentences: Its last column holds sentences, not numbers.
        cards: It has many columns: on a telephone a row is a card, a line for each cell.
    """

    kind: ClassVar[str] = "table"
    name: str
    caption: str
    header: tuple[str, ...]
    groups: tuple[Group, ...]
    note: str = ""
    records: Sequence[Mapping[str, Any]] = ()
    sentences: bool = False
    cards: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG.

    Attributes:
        name: Of its file, without ending.
        alt: What it shows, for who cannot see it.
        width_px: Its width on the page.
        title: Before the caption.
        flags: What is to be looked at; such a picture stands out.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    width_px: int
    title: str = ""
    flags: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures side by side, as many as fit."""

    kind: ClassVar[str] = "gallery"
    pictures: tuple[Picture, ...]


Block = Text | Bullets | Facts | Table | Gallery


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is under it."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def slug(self) -> str:
        return "-".join(self.title.lower().replace(",", "").split())


def write_tables(sections: Sequence[Section], folder: Path) -> None:
    """Every table with a name and records as <name>.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in _blocks(sections):
        if isinstance(table, Table) and table.name and table.records:
            with (folder / f"{table.name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(table.records[0]))
                writer.writeheader()
                for record in table.records:
                    writer.writerow({k: "" if v is None else v for k, v in record.items()})


def write_pictures(sections: Sequence[Section], folder: Path) -> None:
    """Every picture as <name>.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for gallery in _blocks(sections):
        if isinstance(gallery, Gallery):
            for picture in gallery.pictures:
                (folder / f"{picture.name}.png").write_bytes(picture.png)


def _blocks(sections: Sequence[Section]) -> Iterator[Block]:
    for section in sections:
        yield from section.blocks
