"""DICOM series of rounded positions, of doubtful pixels, or of nobody."""

from collections.abc import Sequence
from typing import Any

import bad_cases as bad
import dicom_phantoms as ph
import numpy as np
from bad_cases import Place
from pydicom import Dataset, dcmread

from faulty import Faulty
from faulty.series import VOLUMES_ML, Make, files, of_headers, put, refused, slices, used


def at(heights: Sequence[str], **values: Any) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        header.ImagePositionPatient = ["-10", "20", heights[z]]
        put(**values)(header, z)

    return edit


def rounded(heights: Sequence[str], step_mm: float) -> Make:
    """An even stack whose positions are rounded, its label on the steps before rounding."""

    def make(place: Place) -> None:
        place.dicom(edit=at(heights))
        label = bad.on_grid(bad.organs())
        label.SetSpacing((0.5, 0.7, step_mm))
        bad.save(label, place.label())

    return make


def overlay(header: Dataset, z: int) -> None:
    """Graphics in bit 15 of pixels of 12 bits."""
    put(BitsStored=12, HighBit=11)(header, z)
    pixels = np.frombuffer(header.PixelData, "<u2").copy()
    pixels[::3] |= 0x8000
    header.PixelData = pixels.tobytes()
    header.add_new(0x60000010, "US", pixels.size // 18)
    header.add_new(0x60000011, "US", 18)
    header.add_new(0x60000040, "CS", "G")
    header.add_new(0x60000050, "SS", [1, 1])
    header.add_new(0x60000100, "US", 16)
    header.add_new(0x60000102, "US", 15)


def pixels(place: Place) -> str:
    header = dcmread(files(place)[0])
    values = header.pixel_array
    return (
        f"pydicom: BitsStored {header.BitsStored}, HighBit {header.HighBit}, slope"
        f" {header.get('RescaleSlope', 'none')}; stored {values.min()} to {values.max()}"
    )


INPUTS: dict[str, Faulty] = {
    "series_rounded": Faulty(
        kind="5",
        what="positions rounded to 0.1 mm",
        make=rounded(("5", "8", "10.9", "13.9", "16.9"), 2.975),
        truth=of_headers(),
        rule="",
        said="",
        volumes_ml=dict.fromkeys(VOLUMES_ML, 0.063 * 2.975 / 3),
    ),
    "series_rounded_gap": refused(
        "5",
        "positions rounded to 0.1 mm, a slice missing",
        slices(at(("5.0", "8.0", "10.9", "16.9", "19.9"))),
        of_headers(),
        "slices",
        "unevenly spaced, 2.9 to 6 mm",
    ),
    "series_coarse": refused(
        "5",
        "steps of 0.5 mm, positions rounded to 1 mm",
        slices(at(("5", "6", "6", "7", "7"))),
        of_headers(),
        "slices",
        "rounded to 1 mm, too coarse for steps of 0.5 mm",
    ),
    "series_high_bit": refused(
        "12",
        "12 bits stored, the high bit 15",
        slices(put(BitsStored=12, HighBit=15)),
        pixels,
        "format",
        "has pixels of 12 bits up to bit 15 in 16",
    ),
    "series_slope_0": refused(
        "12",
        "a slice of slope 0",
        slices(put(RescaleSlope=lambda z: str(int(z > 0)), RescaleIntercept="0")),
        pixels,
        "undefined",
        "a slice's rescale slope is 0",
    ),
    "series_anonymous": used(
        "12",
        "PatientID ANONYMOUS",
        slices(put(PatientID="ANONYMOUS", PatientName="ANONYMOUS", PatientBirthDate="")),
        of_headers("PatientID"),
        "its PatientID names nobody",
    ),
    "series_overlay": used(
        "12", "graphics in the unused bits of the pixels", slices(overlay), pixels
    ),
    "series_spacing_0": used(
        "12",
        "SpacingBetweenSlices 0 beside good positions",
        slices(put(SpacingBetweenSlices="0")),
        of_headers("SpacingBetweenSlices"),
    ),
}
