"""One case of every kind that a site must not use, each made by spoiling a good one."""

import gzip
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicom_phantoms as ph
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate

from client.data.dicom.derived.drawing import Drawing
from client.data.dicom.derived.segment_writing import write_segments
from client.data.dicom.derived.structures import write_structures
from client.data.dicom.series import find_series
from client.data.files.image_io import read_image

ORGANS = {"bladder": 1, "prostate": 2}
SHAPE = (5, 14, 18)
# Of the site's file and the study's requirements, beside which some cases are bad.
UNDRAWN = {"undrawn_organ": ("prostate",)}
PATIENTS = {"patient_in_test": "4712", "patient_in_training": "4712"}
CONTRACT = {"max_spacing_mm": 6.0, "min_extent_mm": 6.0}

Array = NDArray[Any]
Make = Callable[["Place"], None]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a case of this name goes."""

    root: Path
    name: str
    seed: int

    def image(self, suffix: str = ".mha", part: str = "Tr") -> Path:
        path = self.root / f"images{part}" / f"{self.name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def label(self, suffix: str = ".mha", part: str = "Tr") -> Path:
        path = self.root / f"labels{part}" / f"{self.name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path

    def voxels(self) -> NDArray[np.uint16]:
        return np.random.default_rng(self.seed).integers(1, 900, SHAPE).astype(np.uint16)

    def scan(self, array: Array | None = None) -> sitk.Image:
        return on_grid(self.voxels() if array is None else array)

    def good_label(self, part: str = "Tr") -> None:
        save(on_grid(organs()), self.label(part=part))

    def dicom(self, *, edit: ph.Edit | None = None, **facts: Any) -> ph.Phantom:
        made = ph.Phantom(voxels=self.voxels(), **facts)
        ph.write_classic(self.image(""), made, edit=edit)
        return made


def organs() -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 2:6, 3:8], label[1:4, 8:12, 3:8] = 1, 2
    return label


def on_grid(array: Array) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    if image.GetDimension() == 3:
        image.SetSpacing((0.5, 0.7, 3.0))
        image.SetOrigin((-10.0, 20.0, 5.0))
    return image


def save(image: sitk.Image, path: Path, *, compress: bool = False) -> None:
    sitk.WriteImage(image, str(path), useCompression=compress)


# ---- scans --------------------------------------------------------------------------------------


def of_array(change: Callable[[Array], Array], suffix: str = ".mha") -> Make:
    """A scan of changed voxels beside a good label."""

    def make(place: Place) -> None:
        save(place.scan(change(place.voxels().astype(np.float32))), place.image(suffix))
        place.good_label()

    return make


def of_grid(change: Callable[[sitk.Image], sitk.Image]) -> Make:
    """A scan and its label, both changed."""

    def make(place: Place) -> None:
        save(change(place.scan()), place.image())
        save(change(on_grid(organs())), place.label())

    return make


def spoilt_bytes(suffix: str, spoil: Callable[[bytearray], bytes], *, compress: bool) -> Make:
    def make(place: Place) -> None:
        save(place.scan(), place.image(suffix), compress=compress)
        place.image(suffix).write_bytes(spoil(bytearray(place.image(suffix).read_bytes())))
        place.good_label()

    return make


def blotted(content: bytearray) -> bytes:
    middle = len(content) * 2 // 3
    content[middle : middle + 30] = bytes(30)
    return bytes(content)


def with_value(value: float) -> Callable[[Array], Array]:
    def change(array: Array) -> Array:
        array[1, 2, 3] = value
        return array

    return change


def colours(place: Place) -> None:
    array = np.stack([place.voxels()] * 3, -1)
    save(sitk.GetImageFromArray(array, isVector=True), place.image())
    place.good_label()


def four_dimensions(place: Place) -> None:
    save(
        sitk.GetImageFromArray(np.stack([place.voxels()] * 2), isVector=False), place.image(".nii")
    )
    place.good_label()


def header_alone(place: Place) -> None:
    save(place.scan(), place.image(".mhd"))
    place.image(".raw").unlink()
    place.good_label()


def several_files(place: Place) -> None:
    save(place.scan(), place.image(".mhd"))
    header = place.image(".mhd")
    header.write_text(header.read_text().replace(f"{place.name}.raw", "a.%02d.raw 1 5 1"))
    place.good_label()


def text_file(place: Place) -> None:
    place.image(".nii.gz").write_text("not a scan\n" * 200)
    place.good_label()


def nifti_2(place: Place) -> None:
    header = struct.pack("<i8s", 540, b"n+2\0\r\n\032\n") + bytes(528)
    place.image(".nii.gz").write_bytes(gzip.compress(header + place.voxels().tobytes()))
    place.good_label()


def twice(place: Place) -> None:
    save(place.scan(), place.image(".mha"))
    save(place.scan(), place.image(".nii.gz"))
    place.good_label()


def copy_of_good(place: Place) -> None:
    original = place.root / "imagesTr" / "good_map.mha"
    save(sitk.ReadImage(str(original)), place.image(".nrrd", "Un"))


def of_test(place: Place) -> None:
    save(place.scan(), place.image(part="Ts"))
    place.good_label("Ts")


def in_training(place: Place) -> None:
    save(place.scan(), place.image(part="Un"))


def in_two_parts(place: Place) -> None:
    save(place.scan(), place.image(part="Un"))
    of_test(place)


# ---- labels -------------------------------------------------------------------------------------


def of_label(change: Callable[[sitk.Image], sitk.Image]) -> Make:
    def make(place: Place) -> None:
        save(place.scan(), place.image())
        save(change(on_grid(organs())), place.label())

    return make


def shifted(image: sitk.Image) -> sitk.Image:
    image.SetOrigin((-10.0, 20.35, 5.0))
    return image


def coarser(image: sitk.Image) -> sitk.Image:
    image.SetSpacing((0.5, 0.7, 3.3))
    return image


def turned(image: sitk.Image) -> sitk.Image:
    image.SetDirection((0.999, -0.0447, 0, 0.0447, 0.999, 0, 0, 0, 1))
    return image


def no_label(place: Place) -> None:
    save(place.scan(), place.image())


def no_image(place: Place) -> None:
    place.good_label()


# ---- DICOM --------------------------------------------------------------------------------------


def dicom(edit: ph.Edit, **facts: Any) -> Make:
    def make(place: Place) -> None:
        place.dicom(edit=edit, **facts)
        place.good_label()

    return make


def put(**values: str) -> ph.Edit:
    def edit(header: Dataset, _: int) -> None:
        for name, value in values.items():
            setattr(header, name, value)

    return edit


def at(height_mm: Callable[[int], float], across_mm: float = 0.0) -> ph.Edit:
    """Slices at these heights, each moved across the last."""

    def edit(header: Dataset, z: int) -> None:
        header.ImagePositionPatient = ph.numbers((-10 + across_mm * z, 20, height_mm(z)))

    return edit


def tilted(header: Dataset, z: int) -> None:
    cosine, sine = np.cos(0.1 * z), np.sin(0.1 * z)
    header.ImageOrientationPatient = ph.numbers((1, 0, 0, 0, cosine, sine))


def two_series(place: Place) -> None:
    ph.write_classic(place.image("") / "a", ph.Phantom(voxels=place.voxels()))
    ph.write_classic(place.image("") / "b", ph.Phantom(voxels=place.voxels()))
    place.good_label()


def cut_slice(place: Place) -> None:
    place.dicom()
    last = sorted(place.image("").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-60])
    place.good_label()


def unknown_syntax(place: Place) -> None:
    place.dicom()
    for file in place.image("").iterdir():
        header = dcmread(file)
        header.PixelData = encapsulate([header.PixelData])
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG-2
        ph.save(header, file)
    place.good_label()


def missing_frame(place: Place) -> None:
    made = ph.Phantom(voxels=place.voxels())
    ph.write_enhanced(place.image(".dcm"), made, order=[0, 1, 3, 4])
    place.good_label()


def labelled_dicom(kind: str, spoil: Callable[[Place, Path], None], **values: int) -> Make:
    """A series with contours or segments of its organs, spoilt."""

    def make(place: Place) -> None:
        place.dicom()
        image = read_image(place.image(""), case=place.name)
        series = find_series(place.image(""), location=place.name)
        write = write_structures if kind == "contours" else write_segments
        drawing = Drawing(organs(), image, series, values or ORGANS, model="test")
        write(place.label(".dcm"), drawing)
        spoil(place, place.label(".dcm"))

    return make


def edited(change: Callable[[Dataset], object]) -> Callable[[Place, Path], None]:
    def spoil(_: Place, path: Path) -> None:
        found = dcmread(path)
        change(found)
        found.save_as(path)

    return spoil


def of_another_scan(place: Place, _: Path) -> None:
    for file in place.image("").iterdir():
        file.unlink()
    place.dicom()


def rename_roi(number: int, name: str) -> Callable[[Dataset], None]:
    def change(found: Dataset) -> None:
        found.StructureSetROISequence[number].ROIName = name

    return change


def lifted(found: Dataset) -> None:
    for roi in found.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3) + np.array((0, 0, 1.4))
            contour.ContourData = ph.numbers(points)


def swollen(found: Dataset) -> None:
    """The second organ drawn over half of the first."""
    for contour in found.ROIContourSequence[1].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array((0, 2.8, 0))
        contour.ContourData = ph.numbers(points)


def with_contours_beside(place: Place, count: int) -> None:
    """Contours within the case's own folder, as a planning system exports them."""
    place.dicom()
    image = read_image(place.image(""), case=place.name)
    series = find_series(place.image(""), location=place.name)
    for number in range(count):
        path = place.image("") / f"RS{number}.dcm"
        write_structures(path, Drawing(organs(), image, series, ORGANS, model="test"))


def two_contours_beside(place: Place) -> None:
    with_contours_beside(place, 2)


def cut_contours_beside(place: Place) -> None:
    with_contours_beside(place, 1)
    path = place.image("") / "RS0.dcm"
    path.write_bytes(path.read_bytes()[:200])


def report_as_label(place: Place) -> None:
    made = place.dicom()
    ph.write_other(place.label(".dcm"), made, "1.2.840.10008.5.1.4.1.1.88.11", "SR")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of bad input: what it is, the rule that it breaks, and words of what is said."""

    what: str
    make: Make
    rule: str
    said: str


def kind(what: str, make: Make, rule: str, said: str) -> Kind:
    return Kind(what=what, make=make, rule=rule, said=said)


KINDS: Mapping[str, Kind] = {
    "cut_short": kind(
        "NIfTI file cut short",
        spoilt_bytes(".nii", lambda b: bytes(b[:-100]), compress=False),
        "damaged",
        "is cut short",
    ),
    "cut_short_gz": kind(
        "compressed NIfTI cut short",
        spoilt_bytes(".nii.gz", lambda b: bytes(b[:-100]), compress=True),
        "damaged",
        "is cut short or damaged",
    ),
    "blotted": kind(
        "compressed MetaImage damaged inside",
        spoilt_bytes(".mha", blotted, compress=True),
        "damaged",
        "is cut short or damaged",
    ),
    "text_file": kind("text named .nii.gz", text_file, "damaged", "is cut short or damaged"),
    "nifti_2": kind("NIfTI-2", nifti_2, "format", "is not a single-file NIfTI-1 image"),
    "header_alone": kind(
        "MetaImage header without its voxels", header_alone, "missing", "is missing"
    ),
    "several_files": kind(
        "voxels spread over several files", several_files, "format", "spread over several files"
    ),
    "two_dimensions": kind(
        "two dimensions", of_array(lambda a: a[0]), "dimensions", "give a 3-D image"
    ),
    "four_dimensions": kind("four dimensions", four_dimensions, "dimensions", "give a 3-D image"),
    "one_slice": kind("one slice", of_array(lambda a: a[:1]), "dimensions", "is one voxel thin"),
    "colours": kind("three channels", colours, "dimensions", "has 3 channels a voxel"),
    "nan": kind("NaN voxel", of_array(with_value(np.nan)), "undefined", "is NaN or infinite in 1"),
    "nan_nifti": kind(
        "NaN voxel in NIfTI, which readers turn into 0",
        of_array(with_value(np.nan), ".nii.gz"),
        "undefined",
        "is NaN or infinite in 1",
    ),
    "infinite": kind(
        "infinite voxel", of_array(with_value(np.inf)), "undefined", "is NaN or infinite in 1"
    ),
    "constant": kind(
        "the same value everywhere", of_array(lambda a: a * 0 + 7), "constant", "is constant"
    ),
    "twice": kind("one case in two formats", twice, "name", "is there more than once"),
    "in_two_parts": kind("one case in training and test", in_two_parts, "name", "is in the parts"),
    "no_label": kind("image without label", no_label, "pair", "imagesTr holds its image"),
    "no_image": kind("label without image", no_image, "pair", "labelsTr holds its label map"),
    "copy": kind("a renamed, converted copy", copy_of_good, "duplicate", "the same scan as one"),
    "patient_in_training": kind(
        "a patient's scan in training ...", in_training, "", "used: the other one is refused"
    ),
    "patient_in_test": kind(
        "... and another one in test", of_test, "patient", "its patient is in training too"
    ),
    "too_coarse": kind(
        "slices of 8 mm where 6 are allowed",
        of_grid(lambda i: (i.SetSpacing((0.5, 0.7, 8.0)), i)[1]),
        "spacing",
        "has voxels of 8 mm, the study takes 6 mm at most",
    ),
    "too_small": kind(
        "a crop of 5 mm where 6 are demanded",
        of_grid(lambda i: i[:10]),
        "extent",
        "is 5 mm long at its shortest edge",
    ),
    "label_shifted": kind(
        "label half a voxel off", of_label(shifted), "grid", "is not on the image grid: origin"
    ),
    "label_coarser": kind(
        "label of another spacing", of_label(coarser), "grid", "is not on the image grid: spacing"
    ),
    "label_turned": kind(
        "label turned", of_label(turned), "grid", "is not on the image grid: direction cosines"
    ),
    "label_cropped": kind(
        "label cropped", of_label(lambda i: i[:, :, 1:]), "grid", "is not on the image grid: size"
    ),
    "label_foreign": kind(
        "label with a number that means nothing",
        of_label(lambda i: i * 5),
        "values",
        "holds the values 5, 10",
    ),
    "label_fraction": kind(
        "label interpolated",
        of_label(lambda i: sitk.Cast(i, sitk.sitkFloat32) * 0.5),
        "values",
        "holds values that are not integers",
    ),
    "label_nan": kind(
        "label with NaN",
        of_label(lambda i: sitk.Cast(i, sitk.sitkFloat32) / 0.0),
        "undefined",
        "is NaN or infinite in",
    ),
    "undrawn_organ": kind(
        "label of an organ that is declared as not annotated",
        of_label(lambda i: i),
        "organ",
        "holds prostate, which the site's file declares as not annotated",
    ),
    "two_series": kind("two series in a folder", two_series, "series", "holds 2 DICOM series"),
    "slice_missing": kind(
        "a slice is missing", dicom(at(lambda z: 3.0 * (z + (z > 2)))), "slices", "spaced"
    ),
    "slice_twice": kind(
        "a slice is there twice", dicom(at(lambda z: 3.0 * (z - (z > 2)))), "slices", "position"
    ),
    "slices_tilted": kind("slices tilted to each other", dicom(tilted), "slices", "tilted"),
    "slices_sheared": kind(
        "gantry tilt: each slice moved across the last",
        dicom(at(lambda z: 3.0 * z, across_mm=1.0)),
        "slices",
        "",
    ),
    "slice_cut": kind("a slice's file cut short", cut_slice, "damaged", ""),
    "unknown_syntax": kind(
        "a transfer syntax that nobody can decode", unknown_syntax, "format", ""
    ),
    "frame_missing": kind("multi-frame file without a frame", missing_frame, "slices", "spaced"),
    "computed_tomography": kind(
        "CT in a study of MR", dicom(put(Modality="CT")), "modality", "is of modality CT"
    ),
    "inverted": kind(
        "dark is bright (MONOCHROME1)",
        dicom(put(PhotometricInterpretation="MONOCHROME1")),
        "dimensions",
        "",
    ),
    "contours_of_another": kind(
        "contours of another scan",
        labelled_dicom("contours", of_another_scan),
        "reference",
        "",
    ),
    "contours_off": kind(
        "contours between the slices",
        labelled_dicom("contours", edited(lifted)),
        "reference",
        "",
    ),
    "contours_without": kind(
        "an organ has no contour, or one under another name",
        labelled_dicom("contours", edited(rename_roi(1, "Prost."))),
        "organ",
        "holds no structure for prostate",
    ),
    "contours_same_name": kind(
        "two structures of one name",
        labelled_dicom("contours", edited(rename_roi(1, "bladder"))),
        "values",
        "",
    ),
    "contours_overlap": kind(
        "two organs on the same voxels",
        labelled_dicom("contours", edited(swollen)),
        "overlap",
        "prostate and bladder share",
    ),
    "segments_of_another": kind(
        "segments of another scan", labelled_dicom("segments", of_another_scan), "reference", ""
    ),
    "segments_without": kind(
        "an organ has no segment",
        labelled_dicom("segments", lambda *_: None, bladder=1),
        "organ",
        "holds no structure for prostate",
    ),
    "contours_twice": kind(
        "two sets of contours in a case's folder", two_contours_beside, "pair", "2 sets of contours"
    ),
    "contours_cut": kind(
        "contours in a case's folder, cut short", cut_contours_beside, "damaged", "cannot be read"
    ),
    "report": kind("a report as label", report_as_label, "format", "must be one RTSTRUCT or one"),
}
GOOD = ("good_map", "good_dicom", "good_contours", "good_segments", "good_beside")


def make_site(root: Path) -> None:
    """Every kind of bad case, and a few good ones that must be used all the same."""
    root.mkdir()
    for seed, name in enumerate(GOOD):
        place = Place(root=root, name=name, seed=seed)
        if name == "good_map":
            of_label(lambda image: image)(place)
        elif name == "good_dicom":
            dicom(lambda *_: None)(place)
        elif name == "good_beside":
            with_contours_beside(place, 1)
        else:
            labelled_dicom(name.removeprefix("good_"), lambda *_: None)(place)
    for seed, (name, each) in enumerate(KINDS.items(), 100):
        each.make(Place(root=root, name=name, seed=seed))


def table(out: str) -> str:
    """The kinds as rows of Markdown, with what the check has printed of each."""
    rows = ["| what is wrong | rule | what is said |", "| --- | --- | --- |"]
    for name, each in KINDS.items():
        found = re.search(rf"^refused .* {name} \(case-[0-9a-f]+\): rule (\w+): (.*)$", out, re.M)
        if found:
            said = re.sub(rf"((?:case|image|label) ){name}\b", r"\g<1>014", found[2])
            said = re.sub(rf"\b{name}(?=\.[a-z])", "014", said).replace("|", "/")
            said = re.sub(r"\(case (good_map|patient_in_training)\)", "(case 007)", said)
            rows.append(f"| {each.what} | `{found[1]}` | {said} |")
    return "\n".join(rows)
