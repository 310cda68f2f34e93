"""A DICOM-SEG as another program writes it, by highdicom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes


def write_other_segments(
    path: Path,
    sources: Sequence[Dataset],
    pixels: NDArray[Any],
    names: Sequence[str],
    kind: str = "BINARY",
    **more: Any,
) -> Path:
    """Segments of these names on the sources, or elsewhere where `more` says so to highdicom."""
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Prostate,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names, start=1)
    ]
    hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="another",
        manufacturer_model_name="program",
        software_versions="1",
        device_serial_number="1",
        **more,
    ).save_as(path)
    return path
