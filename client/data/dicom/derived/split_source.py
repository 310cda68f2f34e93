"""Frames of multi-frame files as the source of a DICOM-SEG.

highdicom takes classic slices, or one multi-frame file of shared spacings. So each frame is given
to it as a slice, and what it wrote of these is then made to refer to the files and frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import SimpleITK as sitk
from pydicom import Dataset
from pydicom.uid import MRImageStorage, generate_uid

from client.data.dicom.derived.drawing import Source

# Not copied, so that no element is shared whose value is set anew.
_OF_FRAMES = (
    "SOPClassUID",
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)


def frames_as_slices(source: Source, image: sitk.Image) -> list[Dataset]:
    """A header of each slice of the image, as a classic series would have it.

    Args:
        source: Of multi-frame files.
        image: On the grid of all their frames.
    """
    x_mm, y_mm, z_mm = image.GetSpacing()
    direction = image.GetDirection()
    slices = []
    for z in range(image.GetDepth()):
        header, _ = source.of_slice(z)
        each = Dataset({tag: element for tag, element in header.items()})
        for name in _OF_FRAMES:
            each.pop(name, None)
        each.SOPClassUID, each.SOPInstanceUID = MRImageStorage, generate_uid()
        each.ImagePositionPatient = _numbers(image.TransformIndexToPhysicalPoint((0, 0, z)))
        each.ImageOrientationPatient = _numbers([*direction[::3], *direction[1::3]])
        each.PixelSpacing = _numbers([y_mm, x_mm])
        each.SliceThickness = _numbers([z_mm])[0]
        slices.append(each)
    return slices


def refer_to_frames(segmentation: Dataset, slices: Sequence[Dataset], source: Source) -> None:
    """Replace every reference to one of `slices` by that to its file and frame."""
    places = {each.SOPInstanceUID: source.of_slice(z) for z, each in enumerate(slices)}
    for series in segmentation.get("ReferencedSeriesSequence") or ():
        series.ReferencedInstanceSequence = [_reference(header) for header in source.headers]
    derivations = (
        item
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for item in group.get("DerivationImageSequence") or ()
    )
    for holder in (segmentation, *derivations):
        for item in holder.get("SourceImageSequence") or ():
            if item.ReferencedSOPInstanceUID in places:  # highdicom uses an item in several places
                header, frame = places[item.ReferencedSOPInstanceUID]
                item.update(_reference(header))
                item.ReferencedFrameNumber = (frame or 0) + 1


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def _numbers(values: Sequence[float]) -> list[str]:
    return [f"{value:.10f}"[:16] for value in values]
