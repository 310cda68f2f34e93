"""Parses DICOM files with pydicom; errors and warnings quote nothing of the header."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from client.data.dicom.whole import check_whole
from client.data.errors import ScanError

# Whole numbers on which reading stands; where one is none, nothing of the file can be read.
_COUNTS = (
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
DAMAGED = "cannot be read; copy or export the series again"


@contextmanager
def quiet() -> Iterator[None]:
    """Neither warnings nor log lines of the DICOM libraries: they quote values of the header.

    They come wherever a value is first looked at, so whatever a caller may enter is wrapped.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def load(
    file: Path, *, location: str, tags: Sequence[str] | None = None, pixels: bool = False
) -> Dataset:
    """Parse a DICOM file, with or without a preamble.

    Args:
        file: The file.
        location: How a message begins, e.g. `case 014: image 014`.
        tags: Keywords of the attributes to keep; None: all.
        pixels: Whether to read beyond the header.

    Raises:
        ScanError: It cannot be opened, or is cut short, its pixels included, or no DICOM.
    """
    try:
        dataset = dcmread(
            file,
            stop_before_pixels=not pixels,
            specific_tags=None if tags is None else list(tags),
            force=True,
        )
        kind = UID(dataset.get("SOPClassUID") or dataset.file_meta.MediaStorageSOPClassUID)
        cut = "SOPClassUID" not in dataset and kind != MediaStorageDirectoryStorage
        empty = "Columns" in dataset and not dataset.Columns
        if cut or empty or ("Image Storage" in kind.name and not dataset.get("Rows")):
            raise EOFError
        for name in _COUNTS:
            int(dataset.get(name) or 0)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a data set without the file's facts
            dataset.file_meta.TransferSyntaxUID = _syntax(dataset)
        check_whole(file, dataset)
    except FileNotFoundError as error:
        raise ScanError(
            location,
            ": a file is a link to what is not there; copy the files themselves",
            rule="missing",
            detail=file.name,
        ) from error
    except OSError as error:
        if error.errno is None:  # the library's own, of a sequence without its end
            raise ScanError(location, DAMAGED, rule="damaged", detail=file.name) from error
        raise ScanError(
            location,
            f": a file cannot be opened: {error.strerror}; check its permissions",
            rule="closed",
            detail=file.name,
        ) from error
    except Exception as error:  # whatever a parser meets in bytes that are no DICOM
        raise ScanError(location, DAMAGED, rule="damaged", detail=file.name) from error
    return dataset


def _syntax(dataset: Dataset) -> UID:
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def text(header: Dataset, name: str) -> str:
    """A value of the header as text; empty where there is none, or none that can be read."""
    try:
        value = header.get(name)
    except Exception:  # of whatever parser of its kind of value
        return ""
    return "" if value is None else str(value).strip()
