"""Writes a DICOM-SEG: organs as segments on the grid of an image's series."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from client.data.dicom.derived.drawing import (
    MANUFACTURER,
    NOT_CLINICAL,
    Drawing,
    character_set,
    save,
    source_of,
)
from client.data.dicom.derived.split_source import frames_as_slices, refer_to_frames
from client.data.dicom.headers import quiet
from client.data.errors import ScanError

_STRUCTURE = Code("123037004", "SCT", "Anatomical structure")
_ANATOMY = {
    "bladder": Code("89837001", "SCT", "Urinary bladder"),
    "urinary_bladder": Code("89837001", "SCT", "Urinary bladder"),
    "prostate": Code("41216001", "SCT", "Prostate"),
    "rectum": Code("34402009", "SCT", "Rectum"),
}


@quiet()
def write_segments(path: Path, drawing: Drawing) -> tuple[str, ...]:
    """Write a label map as a binary DICOM-SEG of the image's series, in one step.

    Args:
        path: The file, in a folder that exists.
        drawing: What is written; an organ that is not in its label is a segment without frames.

    Returns:
        Keywords of the scan's attributes that are not valid, and were left out.

    Raises:
        ScanError: Label, image and series are not on one grid, the series has no valid identifiers
            (such as a frame of reference), or the file cannot be written.
    """
    location = f"segments {path.name}"
    source = source_of(drawing, location=location)
    if not source.frames and source.headers[0].SOPClassUID.is_private:
        raise ScanError(
            location,
            ": its slices are a manufacturer's own kind of DICOM object, of which a DICOM-SEG"
            " cannot be made; save contours or a label map",
            rule="format",
        )
    label, organs, model = drawing.label, drawing.organs, drawing.model
    images = frames_as_slices(source, drawing.image) if source.frames else list(source.headers)
    number_of = np.zeros(256, np.uint8)
    number_of[list(organs.values())] = range(1, len(organs) + 1)
    segmentation = hd.seg.Segmentation(
        source_images=images,
        # Segments side by side would be a volume each, and highdicom sums them in 64 bits.
        pixel_array=number_of[label],
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=_descriptions(organs, model),
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model[:64],
        software_versions=_version(),
        device_serial_number="none",
        content_description=NOT_CLINICAL,
        content_label="AI_NOT_CLINICAL",
        series_description=NOT_CLINICAL,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=character_set(source.patient, drawing),
    )
    if source.frames:
        refer_to_frames(segmentation, images, source)
    save(segmentation, path, location=location)
    return source.left_out


def _descriptions(organs: Mapping[str, int], model: str) -> list[hd.seg.SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=model[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=_version(),
    )
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=_STRUCTURE,
            segmented_property_type=_ANATOMY.get(name, _STRUCTURE),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(organs, start=1)
    ]


def _version() -> str:
    try:
        return version(MANUFACTURER)
    except PackageNotFoundError:  # run from a bundle
        return "unknown"
