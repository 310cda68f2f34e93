"""Grey values are those that pydicom computes of the same files, or the series is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut

from client.data.dicom.decoding import rescale
from client.data.dicom.series import find_series, read_series, series_grid
from client.data.errors import ScanError


def bits(allocated: int, stored: int, high: int, signed: int = 0, **values: Any) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        header.BitsAllocated, header.BitsStored, header.HighBit = allocated, stored, high
        header.PixelRepresentation = signed
        for name, value in values.items():
            setattr(header, name, value[z] if isinstance(value, tuple) else value)

    return edit


def whole(**values: Any) -> ph.Edit:
    return bits(16, 16, 15, **values)


def overlay(signed: int) -> ph.Edit:
    """Graphics in bit 15 of 12-bit pixels, as old scanners have them."""

    def edit(header: Dataset, z: int) -> None:
        bits(16, 12, 11, signed)(header, z)
        pixels = np.frombuffer(header.PixelData, "<u2").copy()
        pixels[::3] |= 0x8000
        header.PixelData = pixels.tobytes()
        header.add_new(0x60000010, "US", 14)
        header.add_new(0x60000011, "US", 18)
        header.add_new(0x60000040, "CS", "G")
        header.add_new(0x60000050, "SS", [1, 1])
        header.add_new(0x60000100, "US", 16)
        header.add_new(0x60000102, "US", 15)
        header.RescaleSlope, header.RescaleIntercept = "2", "-5"

    return edit


def item(**values: Any) -> Dataset:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found


def real_world(header: Dataset, z: int) -> None:
    header.RealWorldValueMappingSequence = [
        item(RealWorldValueSlope=2.0, RealWorldValueIntercept=1.0)
    ]


def table(header: Dataset, z: int) -> None:
    data = np.arange(4096)[::-1].astype("<u2").tobytes()
    lut = item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US", LUTData=data)
    header.ModalityLUTSequence = [lut]


def without(*names: str) -> ph.Edit:
    def edit(header: Dataset, z: int) -> None:
        for name in names:
            delattr(header, name)

    return edit


def floats(header: Dataset, z: int) -> None:
    without("PixelData", "BitsStored", "HighBit", "PixelRepresentation")(header, z)
    header.BitsAllocated = 32
    header.FloatPixelData = np.zeros((14, 18), "<f4").tobytes()


def masked(header: Dataset, z: int) -> None:
    """Negative values of 12 bits, the four above them cleared."""
    bits(16, 12, 11, 1)(header, z)
    pixels = np.frombuffer(header.PixelData, "<u2") & 0x0FFF
    header.PixelData = pixels.astype("<u2").tobytes()


READ: dict[str, tuple[ph.Edit, type, tuple[int, int]]] = {
    "16": (whole(), np.uint16, (0, 65535)),
    "12": (bits(16, 12, 11), np.uint16, (0, 4095)),
    "12_of_60000": (bits(16, 12, 11), np.uint16, (0, 60000)),
    "12_signed": (bits(16, 12, 11, 1), np.int16, (-2048, 2047)),
    "12_signed_masked": (masked, np.int16, (-2048, 2047)),
    "16_signed": (bits(16, 16, 15, 1), np.int16, (-32768, 32767)),
    "8": (bits(8, 8, 7), np.uint8, (0, 255)),
    "8_signed": (bits(8, 8, 7, 1), np.int8, (-128, 127)),
    "32": (bits(32, 32, 31), np.uint32, (0, 100000)),
    "without_high_bit": (without("HighBit"), np.uint16, (0, 4000)),
    "overlay": (overlay(0), np.uint16, (0, 4095)),
    "overlay_signed": (overlay(1), np.int16, (-2048, 2047)),
    "slopes": (
        whole(RescaleSlope=("1", "0.5", "-2", "0.00123", "4"), RescaleIntercept="-1.5"),
        np.uint16,
        (0, 4000),
    ),
    "padding": (whole(PixelPaddingValue=5), np.uint16, (0, 9)),
    "window": (whole(WindowCenter="9", WindowWidth="5"), np.uint16, (0, 4000)),
    "real_world": (real_world, np.uint16, (0, 4000)),
    "no_spacing": (whole(SpacingBetweenSlices="0"), np.uint16, (0, 4000)),
    "backwards": (whole(SpacingBetweenSlices="-3"), np.uint16, (0, 4000)),
    "excess": (lambda h, z: setattr(h, "PixelData", h.PixelData + bytes(64)), np.uint16, (0, 99)),
}


def series_of(folder: Path, edit: ph.Edit, kind: type, limits: tuple[int, int], rows: int) -> Path:
    made = ph.phantom((5, rows, 18))
    made.voxels = np.random.default_rng(4).integers(*limits, made.voxels.shape).astype(kind)
    return ph.write_classic(folder, made, edit=edit)


@pytest.mark.parametrize("name", READ)
def test_grey_values_are_those_of_pydicom(tmp_path: Path, name: str) -> None:
    edit, kind, limits = READ[name]
    folder = series_of(tmp_path, edit, kind, limits, 14)
    series = find_series(folder, location="")
    headers = [dcmread(file) for file in series.files]
    expected = np.stack([apply_modality_lut(each.pixel_array, each) for each in headers])
    read = sitk.GetArrayFromImage(read_series(series, location=""))
    np.testing.assert_allclose(read, expected, rtol=1e-6)


@pytest.mark.parametrize("syntax", ["rle", "jpeg-ls", "jpeg", "jpeg2000"])
def test_a_spacing_of_0_is_no_damage(tmp_path: Path, syntax: str) -> None:
    """GDCM refuses it; the positions say how far apart slices are."""
    edit = whole(SpacingBetweenSlices="0", RescaleSlope="2", RescaleIntercept="-3")
    made = ph.phantom()
    image = read_series(ph.write_classic(tmp_path, made, syntax=syntax, edit=edit), location="")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), made.voxels * 2.0 - 3)
    assert image.GetSpacing() == pytest.approx(made.spacing_mm)


@pytest.mark.parametrize("found", [0, 252, 464, 502, 504 + 128, 1008])
@pytest.mark.parametrize("multiframe", [False, True])
def test_pixels_that_are_fewer_or_more_than_the_header_counts(
    tmp_path: Path, found: int, multiframe: bool
) -> None:
    """GDCM took another slice's for those that are missing."""
    file, counted = tmp_path / "IM0002", 504
    if multiframe:
        ph.write_enhanced(file, ph.phantom())
        found, counted = 4 * 504 + found, 5 * 504
    else:
        ph.write_classic(tmp_path, ph.phantom())
    header = dcmread(file)
    header.PixelData = (header.PixelData * 3)[:found]
    ph.save(header, file)
    said = f": a file holds {found} bytes of pixels, its header counts {counted}; it cannot be read"
    refused(lambda: read_series(tmp_path, location=""), "damaged", said)


@pytest.mark.parametrize("syntax", ph.SYNTAXES)
@pytest.mark.parametrize("lost", [4, 40, 200])
def test_compressed_pixels_that_end_early(tmp_path: Path, syntax: str, lost: int) -> None:
    ph.write_classic(tmp_path, ph.phantom(), syntax=syntax)
    header = dcmread(tmp_path / "IM0002")
    frame = next(generate_frames(header.PixelData, number_of_frames=1))
    header.PixelData = encapsulate([frame[:-lost]])
    ph.save(header, tmp_path / "IM0002")
    refused(lambda: read_series(tmp_path, location=""), "damaged", "cannot be read; copy")


def test_odd_numbers_of_bytes(tmp_path: Path) -> None:
    folder = series_of(tmp_path, bits(8, 8, 7), np.uint8, (0, 255), 13)
    for file in folder.iterdir():
        header = dcmread(file)
        header.Columns, header.PixelData = 17, header.PixelData[: 13 * 17] + b"\0"
        ph.save(header, file)
    series = find_series(folder, location="")
    expected = np.stack([dcmread(file).pixel_array for file in series.files])
    read = sitk.GetArrayFromImage(read_series(series, location=""))
    np.testing.assert_array_equal(read, expected)


REFUSED: dict[str, tuple[ph.Edit, str, str]] = {
    "high_bit_15": (bits(16, 12, 15), "format", "has pixels of 12 bits up to bit 15 in 16, which"),
    "high_bit_13": (bits(16, 12, 13), "format", "has pixels of 12 bits up to bit 13 in 16, which"),
    "more_bits": (bits(16, 24, 23), "format", "has pixels of 24 bits up to bit 23 in 16, which"),
    "high_bit_0": (bits(16, 16, 0), "format", "has pixels of 16 bits up to bit 0 in 16, which"),
    "no_bits": (bits(16, 0, 0), "format", "has pixels of 0 bits"),
    "no_sign": (without("PixelRepresentation"), "format", "does not say how its pixels are stored"),
    "no_stored": (without("BitsStored"), "format", "does not say how its pixels are stored"),
    "float": (floats, "format", "does not say how its pixels are stored"),
    "table": (table, "format", "has grey values by a table (Modality LUT); export it with"),
    "slope_0": (whole(RescaleSlope="0", RescaleIntercept="0"), "undefined", ": a slice's rescale"),
    "one_slope_0": (
        whole(RescaleSlope=("1", "1", "0", "1", "1"), RescaleIntercept="0"),
        "undefined",
        ": a slice's rescale slope is 0",
    ),
    "slope_alone": (
        whole(RescaleSlope="2"),
        "undefined",
        ": a slice's header has a RescaleSlope and no RescaleIntercept, which some readers apply",
    ),
    "intercept_alone": (
        whole(RescaleIntercept="-1024"),
        "undefined",
        ": a slice's header has a RescaleIntercept and no RescaleSlope, which some readers apply",
    ),
    "slope_empty": (
        whole(RescaleSlope="", RescaleIntercept="0"),
        "undefined",
        ": a slice's header has a RescaleIntercept and no RescaleSlope",
    ),
    "intercept_no_number": (whole(RescaleIntercept="nan"), "undefined", ": a slice's rescale"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_grey_values_that_readers_take_differently(tmp_path: Path, name: str) -> None:
    edit, rule, said = REFUSED[name]
    folder = series_of(tmp_path, edit, np.uint16, (0, 4000), 14)
    refused(lambda: read_series(folder, location=""), rule, said)
    series = find_series(folder, location="")
    refused(lambda: series_grid(series, location=""), rule, said)


def refused(read: Callable[[], object], rule: str, said: str) -> None:
    with pytest.raises(ScanError) as caught:
        read()
    assert caught.value.problem.rule == rule
    assert caught.value.problem.message.startswith(said)


@pytest.mark.parametrize(
    ("values", "rule", "said"),
    [
        ({"HighBit": 15, "BitsStored": 12}, "format", "has pixels of 12 bits up to bit 15"),
        ({"BitsStored": 17, "HighBit": 16}, "format", "has pixels of 17 bits"),
    ],
)
def test_bits_of_frames(tmp_path: Path, values: dict[str, int], rule: str, said: str) -> None:
    path = ph.write_enhanced(tmp_path / "a", ph.phantom())
    header = dcmread(path)
    for name, value in values.items():
        setattr(header, name, value)
    ph.save(header, path)
    refused(lambda: read_series(tmp_path, location=""), rule, said)


def test_slope_of_a_frame_that_is_0(tmp_path: Path) -> None:
    ph.write_enhanced(tmp_path / "a", ph.phantom(), slopes=[1, 1, 0, 1, 1])
    refused(lambda: read_series(tmp_path, location=""), "undefined", ": a slice's rescale slope")


def test_slope_of_a_whole_multiframe_file(tmp_path: Path) -> None:
    """Where its frames have none, as ITK and pydicom take it."""
    made = ph.phantom()
    path = ph.write_enhanced(
        tmp_path / "a", made, edit=lambda f, z: f.pop("PixelValueTransformationSequence")
    )
    header = dcmread(path)
    header.RescaleSlope, header.RescaleIntercept = "2", "-7"
    ph.save(header, path)
    read = sitk.GetArrayFromImage(read_series(tmp_path, location=""))
    np.testing.assert_array_equal(read, apply_modality_lut(dcmread(path).pixel_array, header))


@pytest.mark.parametrize("syntax", ["", "rle", "jpeg-ls"])
@pytest.mark.parametrize("values", [{"RescaleSlope": "1"}, {"RescaleIntercept": "0"}])
def test_one_of_the_two_that_changes_nothing(
    tmp_path: Path, values: dict[str, str], syntax: str
) -> None:
    made = ph.phantom()
    folder = ph.write_classic(tmp_path, made, syntax=syntax, edit=whole(**values))
    read = read_series(find_series(folder, location=""), location="")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), made.voxels)


def test_one_of_the_two_beside_another_of_the_file() -> None:
    """A frame's slope of 1 beside the file's intercept: readers differ."""
    groups = (item(RescaleSlope="1"), item(RescaleSlope="1", RescaleIntercept="-1024"))
    refused(lambda: rescale(groups, location=""), "undefined", ": a slice's header has a Rescale")
    assert rescale((item(RescaleSlope="1"), item()), location="") == (1, 0)
