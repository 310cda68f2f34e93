"""Whether a DICOM file ends where its elements say: the library reads a file that was cut short.

Only an end that comes too early is told.  What follows the pixels or is padding, and what is wrong
in another way, is left to whoever reads it.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_PREAMBLE_BYTES = 132


def check_whole(file: Path, dataset: Dataset) -> None:
    """Raise where a file ends within an element, or within a sequence that has an end of its own.

    Args:
        file: The file.
        dataset: What the library has read of it.

    Raises:
        EOFError: It is cut short.
        OSError: It cannot be opened.
    """
    implicit, little = dataset.original_encoding
    with file.open("rb") as stream:
        walk = _Walk(stream, big=not little)
        walk.skip_meta()
        if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
            walk = _Walk(io.BytesIO(unpacker.decompress(stream.read())), big=False)
            if not unpacker.eof:
                raise EOFError
        walk.dataset(implicit=bool(implicit))


class _Walk:
    """From element to element of a file, values left aside."""

    def __init__(self, stream: BinaryIO, *, big: bool) -> None:
        self._stream = stream
        self._order: Literal["big", "little"] = "big" if big else "little"
        self._end = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def skip_meta(self) -> None:
        """To the first element after group 0002, which is of explicit VR, little endian."""
        if self._stream.read(_PREAMBLE_BYTES)[-4:] != b"DICM":
            self._stream.seek(0)
        order = self._order
        self._order = "little"
        while True:
            at = self._stream.tell()
            if self._stream.read(2) != b"\2\0":
                break
            self._stream.seek(at)
            self._element(implicit=False)
        self._stream.seek(at)
        self._order = order

    def dataset(self, *, implicit: bool) -> None:
        """To the end of the pixels, of the padding or of the file."""
        while (left := self._end - self._stream.tell()) > 0:
            at = self._stream.tell()
            head = self._stream.read(min(left, 8))
            if len(set(head)) == 1 and len(set(self._stream.read())) <= 1:
                return  # padding
            self._stream.seek(at)
            if self._element(implicit=implicit) in _PIXELS:
                return

    def _element(self, *, implicit: bool) -> int:
        """Past one element; its tag."""
        tag = self._tag()
        if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            self._number(4)
            return tag
        kind = b"" if implicit else self._bytes(2)
        if not implicit and not (kind.isalpha() and kind.isupper()):
            kind, implicit = b"", True  # of implicit VR, as some write them into explicit ones
            self._stream.seek(-2, os.SEEK_CUR)
        if not implicit and kind in _LONG:
            self._number(2)
        length = self._number(4 if implicit or kind in _LONG else 2)
        if length != _UNDEFINED:
            self._skip(length)
        else:
            self._items(implicit=implicit or kind == b"UN", pixels=tag in _PIXELS)
        return tag

    def _items(self, *, implicit: bool, pixels: bool) -> None:
        """Past the items of a sequence, or the fragments of pixels, and what ends them."""
        while True:
            if pixels and self._stream.tell() == self._end:
                return  # some writers end no fragments; a decoder tells of one that is missing
            tag, length = self._tag(), self._number(4)
            if tag != _ITEM:
                return
            if length != _UNDEFINED:
                self._skip(length)
                continue
            while self._element(implicit=implicit) != _ITEM_END:
                pass

    def _tag(self) -> int:
        return self._number(2) << 16 | self._number(2)

    def _number(self, size: int) -> int:
        return int.from_bytes(self._bytes(size), self._order)

    def _bytes(self, size: int) -> bytes:
        found = self._stream.read(size)
        if len(found) < size:
            raise EOFError
        return found

    def _skip(self, length: int) -> None:
        if self._stream.tell() + length > self._end:
            raise EOFError
        self._stream.seek(length, os.SEEK_CUR)
