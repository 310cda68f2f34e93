"""The RTSTRUCT that a site gets for its own use: a label map as contours, marked as AI-made."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from client.data.dicom.derived.copied import NEEDED
from client.data.dicom.derived.drawing import (
    MANUFACTURER,
    NOT_CLINICAL,
    Drawing,
    Source,
    character_set,
    save,
    source_of,
)
from client.data.dicom.headers import quiet
from client.data.dicom.labels.outlines import outlines
from client.data.dicom.series import DicomSeries

# Of the patient and the study, as the series has it (PS3.3, C.7.1.1 and C.7.2.1).
_KEPT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
)
_COLOURS = ((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180))


@quiet()
def write_structures(path: Path, drawing: Drawing) -> tuple[str, ...]:
    """Write a label map as an RTSTRUCT of the image's series; readers see the old file or the new.

    Args:
        path: The file, in a folder that exists.
        drawing: What is written; an organ that is not in its label is a ROI without contours.

    Returns:
        Keywords of the scan's attributes that are not valid, and were left out.

    Raises:
        ScanError: Label, image and series are not on one grid, the series has no valid identifiers
            (such as a frame of reference), or the file cannot be written.
    """
    location = f"structures {path.name}"
    source = source_of(drawing, location=location)
    series, model = drawing.series, drawing.model
    dataset = _structure_set(source, drawing)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (name, value) in enumerate(drawing.organs.items(), start=1):
        dataset.StructureSetROISequence.append(_roi(number, name, series, model))
        dataset.RTROIObservationsSequence.append(
            _items(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="ORGAN",
                ROIInterpreter="",
            )
        )
        dataset.ROIContourSequence.append(
            _contours(number, drawing.label == value, drawing.image, source)
        )
    save(dataset, path, location=location)
    return tuple(name for name in source.left_out if name in _KEPT)


def _structure_set(source: Source, drawing: Drawing) -> Dataset:
    series, model, now = drawing.series, drawing.model, datetime.now()
    dataset = _items(**dict.fromkeys(NEEDED, ""))
    if encoding := character_set(source.patient, drawing):
        dataset.SpecificCharacterSet = encoding
    for name in _KEPT:
        if name in source.patient:
            dataset[name] = source.patient[name]
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = series.study_uid, generate_uid()
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = series.frame_uid, ""
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "RTSTRUCT", 1, 1
    dataset.SeriesDescription = dataset.StructureSetName = NOT_CLINICAL
    dataset.StructureSetLabel = "AI NOT CLINICAL"  # at most 16 characters
    dataset.StructureSetDescription = f"{NOT_CLINICAL}. Model: {model}"
    dataset.Manufacturer, dataset.ManufacturerModelName = MANUFACTURER, model[:64]
    dataset.OperatorsName = ""
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.StructureSetDate = dataset.SeriesDate = dataset.InstanceCreationDate = f"{now:%Y%m%d}"
    dataset.StructureSetTime = dataset.SeriesTime = dataset.InstanceCreationTime = f"{now:%H%M%S}"
    images = [_reference(source, z) for z in range(len(source.frames or source.headers))]
    of_series = _items(SeriesInstanceUID=series.series_uid, ContourImageSequence=images)
    of_study = _items(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=series.study_uid,
        RTReferencedSeriesSequence=[of_series],
    )
    of_frame = _items(FrameOfReferenceUID=series.frame_uid, RTReferencedStudySequence=[of_study])
    dataset.ReferencedFrameOfReferenceSequence = [of_frame]
    dataset.file_meta = FileMetaDataset()
    # With an explicit VR no contour could be longer than 64 kB.
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _roi(number: int, name: str, series: DicomSeries, model: str) -> Dataset:
    return _items(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=series.frame_uid,
        ROIName=name,
        ROIDescription=NOT_CLINICAL,
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=model[:64],
    )


def _contours(number: int, mask: NDArray[np.bool_], image: sitk.Image, source: Source) -> Dataset:
    """One ROI's contours, slice by slice, in mm of the patient."""
    axes_mm = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    contours: list[Dataset] = []
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        for outline in outlines(mask[z]):
            voxels = np.column_stack([outline, np.full(len(outline), z)])
            points_mm = voxels @ axes_mm.T + image.GetOrigin()
            contours.append(
                _items(
                    ContourImageSequence=[_reference(source, int(z))],
                    ContourGeometricType="CLOSED_PLANAR",
                    NumberOfContourPoints=len(outline),
                    ContourNumber=len(contours) + 1,
                    ContourData=[f"{value:.4f}" for value in points_mm.ravel()],
                )
            )
    roi_contour = _items(
        ROIDisplayColor=list(_COLOURS[(number - 1) % len(_COLOURS)]), ReferencedROINumber=number
    )
    if contours:  # the sequence may be absent, not empty
        roi_contour.ContourSequence = contours
    return roi_contour


def _reference(source: Source, z: int) -> Dataset:
    header, frame = source.of_slice(z)
    reference = _items(
        ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID
    )
    if frame is not None:
        reference.ReferencedFrameNumber = frame + 1
    return reference


def _items(**values: object) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset
