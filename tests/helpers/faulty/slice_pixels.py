"""DICOM slices whose bytes of pixels are not as many as their header counts."""

import dicom_phantoms as ph
from bad_cases import Place
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames

from faulty import Faulty
from faulty.series import VOLUMES_ML, Make, files, put, refused, slices


def bytes_of_one(count: int) -> ph.Edit:
    """The third slice has this many bytes of pixels."""

    def edit(header: Dataset, z: int) -> None:
        if z == 2:
            header.PixelData = (header.PixelData * 3)[:count]

    return edit


def runs_cut(place: Place) -> None:
    """RLE whose runs end early in one slice."""
    slices()(place)
    for at, file in enumerate(files(place)):
        header = dcmread(file)
        ph.compress(header, header.pixel_array, "rle")
        if at == 2:
            frame = next(generate_frames(header.PixelData, number_of_frames=1))
            header.PixelData = encapsulate([frame[:-40]])
        ph.save(header, file)


def counts(place: Place) -> str:
    """Bytes that are there, and those that rows, columns and bits need."""
    headers = [dcmread(file) for file in files(place)]
    needed = headers[0].Rows * headers[0].Columns * headers[0].BitsAllocated // 8
    return f"pydicom: {[len(header.PixelData) for header in headers]} bytes, needed {needed} each"


def of_rle(place: Place) -> str:
    """Which slices pydicom decodes."""
    cut = 0
    for file in files(place):
        try:
            _ = dcmread(file).pixel_array
        except (ValueError, RuntimeError):
            cut += 1
    return f"pydicom: {cut} of {len(files(place))} slices decode to fewer bytes than they need"


def short(what: str, count: int) -> Faulty:
    make: Make = slices(bytes_of_one(count))
    said = f": a file holds {count} bytes of pixels, its header counts 504; it cannot be read"
    return refused("12", what, make, counts, "damaged", said)


INPUTS: dict[str, Faulty] = {
    "pixels_40_short": short("a slice whose pixels are 40 bytes short", 464),
    "pixels_half": short("a slice of which half the pixels are missing", 252),
    "pixels_two_frames": short("a slice that holds the pixels of two", 1008),
    "pixels_runs_cut": refused(
        "12", "RLE that ends 40 bytes early", runs_cut, of_rle, "damaged", "cannot be read; copy"
    ),
    "pixels_high_bit_0": refused(
        "12",
        "16 bits stored, the high bit 0",
        slices(put(HighBit=0)),
        counts,
        "format",
        "has pixels of 16 bits up to bit 0 in 16",
    ),
    "pixels_padded": Faulty(
        kind="12",
        what="pixels with 8 bytes of padding",
        make=slices(bytes_of_one(512)),
        truth=counts,
        rule="",
        said="",
        volumes_ml=VOLUMES_ML,
    ),
}
