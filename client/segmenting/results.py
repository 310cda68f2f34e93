"""The result of segmenting one case: a folder that is complete or absent.

Only the DICOM files in it identify the patient.  They carry the scan's own header,
because they go back to where the scan came from.
"""

from __future__ import annotations

import json
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydantic import ValidationError

from asdnet_models.fields import Frozen
from asdnet_models.preprocessing import PREPROCESSING_VERSION
from client.data.dicom.series import DicomSeries, find_series
from client.data.errors import ScanError
from client.data.errors import not_written as unwritten
from client.data.files.geometry import unplaced
from client.data.files.image_io import (
    read_image,
    write_label_map,
)
from client.data.files.writing import write_image
from client.data.hashing import content_hash
from client.data.pseudonyms import Pseudonyms
from client.segmenting.options import NOTICE, Options
from client.segmenting.overview import draw_overview
from client.segmenting.prediction import LOW_CONFIDENCE, Model, OrganMeasures, measure
from client.segmenting.sources import Source
from protocol.files import atomic_folder
from reporting.unexpected import log_unexpected

RESULT_FILE = "result.json"
_NO_SERIES = "the scan is no DICOM series, whose header it would need"

# Raise it whenever the files of the same prediction would change: older results are made anew.
_LAYOUT_VERSION = 2
_PNG_LEVEL = 1  # a scan is noise, of which a higher level saves 5 % in five times the time


class CaseResult(Frozen):
    """`result.json`.

    Attributes:
        not_written: By format, why it is not there.
        left_out: Keywords of the scan's attributes that the DICOM files were to have, and that are
            not valid.
        notes: What is usable in the scan's file, but seldom meant.
    """

    notice: str = NOTICE
    case: str
    study: str
    model_sha256: str
    protocol_sha256: str
    software: str
    seconds: float
    largest_component: tuple[str, ...]
    confidence_map: str
    low_confidence_below: float = LOW_CONFIDENCE
    organs: dict[str, OrganMeasures]
    files: tuple[str, ...]
    not_written: dict[str, str]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    made_from: str

    @property
    def unmade(self) -> dict[str, str]:
        """By format, why one is not there although the scan is a DICOM series."""
        return {name: why for name, why in self.not_written.items() if why != _NO_SERIES}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the result must know beside it, without a name or a value."""
        told = [f"no {name}: {why}" for name, why in self.unmade.items()]
        if self.left_out:
            told.append(
                "left out of the DICOM files, because the scan's header has no valid value:"
                f" {', '.join(self.left_out)}"
            )
        return (*told, *(f"note: {line}" for line in self.notes))

    @property
    def least_confidence(self) -> float:
        """The lowest mean confidence of an organ; -1 where one was not found at all."""
        return min(
            -1.0 if organ.mean_confidence is None else organ.mean_confidence
            for organ in self.organs.values()
        )


def made_from(source: Source, model: Model, options: Options, pseudonyms: Pseudonyms) -> str:
    """Changes whenever the result would; reveals nothing of the scan without the site's key.

    Raises:
        ScanError: The scan cannot be opened.
    """
    parts = [
        _LAYOUT_VERSION,
        PREPROCESSING_VERSION,
        model.sha256,
        model.protocol_sha256,
        sorted(options.formats),
        model.protocol.in_one_piece(options.largest_component),
        list(options.series),
        content_hash(source.path),
    ]
    return pseudonyms.seal(json.dumps(parts))


def read_result(folder: Path) -> CaseResult | None:
    """A case's result; None where there is none, or a file of it is missing."""
    try:
        result = CaseResult.model_validate_json((folder / RESULT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return result if all((folder / name).is_file() for name in result.files) else None


def make_result(
    source: Source, out: Path, model: Model, options: Options, *, pseudonym: str, seal: str
) -> CaseResult:
    """Segment one case; its folder replaces an older one atomically.

    Args:
        source: The scan.
        out: The folder of all results, which exists; the case's is named by its pseudonym.
        model: A trained model.
        options: What is made.
        pseudonym: The case's.
        seal: As `made_from` gives it.

    Raises:
        ScanError: The scan cannot be used; nothing is written then, nor at any other exception.
    """
    started = time.perf_counter()
    notes: list[str] = []
    series = _series(source, model, options)
    scan = read_image(
        source.path,
        case=source.name,
        series_patterns=options.series,
        note=notes.append,
        cut=options.is_cut(source.name),
    )
    one_piece = model.protocol.in_one_piece(options.largest_component)
    prediction = model.networks.predict(scan, largest_component=one_piece)
    label_zyx = sitk.GetArrayViewFromImage(prediction.label)
    confidence_zyx = sitk.GetArrayViewFromImage(prediction.confidence)
    organs = model.protocol.organs
    with atomic_folder(out / pseudonym) as folder:
        if "nifti" in options.formats:
            write_label_map(label_zyx, scan, folder / "segmentation.nii.gz")
            write_confidence(confidence_zyx, scan, folder / "confidence.nii.gz")
        not_written, left_out = _write_dicom(folder, series, scan, label_zyx, model, options)
        picture = draw_overview(scan, prediction, organs, f"{pseudonym}: {NOTICE}")
        picture.save(folder / "overview.png", compress_level=_PNG_LEVEL)
        result = CaseResult(
            case=pseudonym,
            study=model.protocol.name,
            model_sha256=model.sha256,
            protocol_sha256=model.protocol_sha256,
            software=software(),
            seconds=round(time.perf_counter() - started, 3),
            largest_component=one_piece,
            confidence_map=model.networks.confidence_map,
            organs=measure(label_zyx, confidence_zyx, scan.GetSpacing(), organs),
            files=tuple(sorted(path.name for path in folder.iterdir())),
            not_written=not_written,
            left_out=left_out,
            notes=tuple(dict.fromkeys(notes)),
            made_from=seal,
        )
        (folder / RESULT_FILE).write_text(f"{result.model_dump_json(indent=2)}\n", "utf-8")
    return result


def write_confidence(confidence_zyx: NDArray[np.float32], scan: sitk.Image, path: Path) -> None:
    """A confidence map as NIfTI: a byte a voxel, and the slope of 1/255 that readers apply.

    A quarter of the size of floats, in steps of .004; the numbers of `result.json` are of the
    map itself.

    Args:
        confidence_zyx: In [0, 1], on the scan's grid.
        scan: Whose geometry the file gets.
        path: A .nii.gz file.

    Raises:
        ScanError: It cannot be written.
    """
    as_bytes = np.empty(confidence_zyx.shape, np.uint8)
    for out, values in zip(as_bytes, confidence_zyx, strict=True):  # no copy of the whole in floats
        out[...] = np.rint(values * 255)
    image = sitk.GetImageFromArray(as_bytes)
    image.CopyInformation(scan)
    location = f"confidence map {path.name}"
    try:
        write_image(image, path, slope=1 / 255, unplaced=unplaced(scan))
    except (RuntimeError, OSError) as error:
        raise unwritten(location, error) from error


def software() -> str:
    """Name and version of this software."""
    try:
        return f"asdnet-federated {version('asdnet-federated')}"
    except PackageNotFoundError:  # run from a folder that was not installed
        return "asdnet-federated"


def _series(source: Source, model: Model, options: Options) -> DicomSeries | None:
    """The DICOM series of a case; None where it is a file of another format.

    Raises:
        ScanError: It is of another modality than the model was trained on.
    """
    if not source.is_dicom:
        return None
    location = f"case {source.name}"
    series = find_series(
        source.path,
        location=location,
        patterns=options.series,
        setting=options.series_setting,
        cut=options.is_cut(source.name),
    )
    wanted = model.protocol.contract.modality
    if wanted and series.modality != wanted:
        raise ScanError(
            location,
            f"is of modality {series.modality or 'unknown'}, but the model was trained on {wanted};"
            " give a series of that modality",
            rule="modality",
        )
    return series


def _write_dicom(
    folder: Path,
    series: DicomSeries | None,
    scan: sitk.Image,
    label_zyx: NDArray[np.uint8],
    model: Model,
    options: Options,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The DICOM formats that are wanted: none of them may cost the case its result.

    Returns:
        By format, why one was not written; and keywords of invalid attributes that were left out.
    """
    wanted = [name for name in ("seg", "rtstruct") if name in options.formats]
    if series is None or not wanted:
        return dict.fromkeys(wanted, _NO_SERIES), ()
    # Late, because they load DICOM libraries that other formats do without.
    from client.data.dicom.derived.drawing import Drawing
    from client.data.dicom.derived.segment_writing import write_segments
    from client.data.dicom.derived.structures import write_structures

    drawing = Drawing(label_zyx, scan, series, model.protocol.organs, model.title)
    not_written: dict[str, str] = {}
    left_out: set[str] = set()
    for name in wanted:
        write = write_segments if name == "seg" else write_structures
        try:
            left_out.update(write(folder / f"segmentation.{name}.dcm", drawing))
        except ScanError as error:
            if error.problem.rule == "closed":  # the disk's fault: the case has no result then
                raise
            not_written[name] = error.problem.anonymous
        except Exception as error:  # of a library, at a header that nobody thought of
            log_unexpected(error)
            not_written[name] = (
                "it could not be made from the scan's header, for a reason that this program did"
                f" not expect ({type(error).__name__}); please report it"
            )
    return not_written, tuple(sorted(left_out))
