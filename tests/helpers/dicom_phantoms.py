"""DICOM series made by pydicom alone, so that no reader is tested against its own writer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

Edit = Callable[[Dataset, int], None]
SYNTAXES = ("rle", "jpeg-ls", "jpeg", "jpeg2000")


def rotation(seed: int) -> NDArray[np.float64]:
    """A right-handed rotation; column i is the direction of the image's axis i (x, y, z)."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q[:, 2] *= np.sign(np.linalg.det(q))
    found: NDArray[np.float64] = q
    return found


def numbers(values: Any) -> list[str]:
    """As DS, which has at most 16 characters."""
    return [f"{value:.10f}"[:16] for value in np.ravel(values)]


@dataclass(kw_only=True)
class Phantom:
    """Voxels (Z, Y, X) and where they lie; `write_classic` and `write_enhanced` make files of it.

    Attributes:
        spacing_mm: Along x, y, z.
    """

    voxels: NDArray[np.uint16]
    spacing_mm: tuple[float, float, float] = (0.5, 0.7, 3.0)
    origin_mm: tuple[float, float, float] = (-10.0, 20.0, 5.0)
    direction: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))
    study_uid: str = field(default_factory=generate_uid)
    series_uid: str = field(default_factory=generate_uid)
    frame_uid: str = field(default_factory=generate_uid)
    description: str = "t2_tse_tra"

    def position_mm(self, z: float) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (
            np.asarray(self.origin_mm) + self.direction[:, 2] * self.spacing_mm[2] * z
        )
        return found

    @property
    def image(self) -> sitk.Image:
        """What a reader must find."""
        image = sitk.GetImageFromArray(self.voxels.astype(np.float32))
        image.SetSpacing(self.spacing_mm)
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction.ravel().tolist())
        return image


def phantom(shape: tuple[int, int, int] = (5, 14, 18), **values: Any) -> Phantom:
    voxels = np.random.default_rng(3).integers(0, 4000, shape).astype(np.uint16)
    return Phantom(voxels=voxels, **values)


def write_classic(
    folder: Path, made: Phantom, *, syntax: str = "", edit: Edit | None = None
) -> Path:
    """One file a slice, in names that say nothing of their order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(5).permutation(len(made.voxels))
    for z, voxels in enumerate(made.voxels):
        header = _header(made, MRImageStorage, voxels)
        header.InstanceNumber = int(names[z]) + 1
        header.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        header.ScanningSequence, header.SequenceVariant = "SE", "SK"
        header.ScanOptions, header.MRAcquisitionType = "", "2D"
        header.EchoTime, header.EchoTrainLength, header.RepetitionTime = "100", "1", "5000"
        header.ImagePositionPatient = numbers(made.position_mm(z))
        header.ImageOrientationPatient = numbers(made.direction[:, :2].T)
        header.PixelSpacing = numbers((made.spacing_mm[1], made.spacing_mm[0]))
        header.SliceThickness = numbers(made.spacing_mm[2])[0]
        compress(header, voxels, syntax)
        if edit is not None:
            edit(header, z)
        save(header, folder / f"IM{names[z]:04}")
    return folder


def write_enhanced(
    path: Path,
    made: Phantom,
    *,
    order: Sequence[int] = (),
    slopes: Sequence[float] = (),
    syntax: str = "",
    edit: Edit | None = None,
) -> Path:
    """One Enhanced MR file whose frames are the slices in `order`, with a slope of each slice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = order or range(len(made.voxels))
    voxels = made.voxels[list(order)]
    header = _header(made, EnhancedMRImageStorage, voxels[0])
    header.NumberOfFrames, header.PixelData = len(order), voxels.tobytes()
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    measures = _items(
        PixelSpacing=numbers((made.spacing_mm[1], made.spacing_mm[0])),
        SliceThickness=numbers(made.spacing_mm[2])[0],
    )
    plane = _items(ImageOrientationPatient=numbers(made.direction[:, :2].T))
    header.SharedFunctionalGroupsSequence = [
        _items(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[plane])
    ]
    header.PerFrameFunctionalGroupsSequence = []
    for number, z in enumerate(order):
        frame = _items(
            PlanePositionSequence=[_items(ImagePositionPatient=numbers(made.position_mm(z)))],
            FrameContentSequence=[_items(StackID="1", InStackPositionNumber=number + 1)],
            PixelValueTransformationSequence=[
                _items(
                    RescaleSlope=str(slopes[z] if slopes else 1),
                    RescaleIntercept="0",
                    RescaleType="US",
                )
            ],
        )
        if edit is not None:
            edit(frame, z)
        header.PerFrameFunctionalGroupsSequence.append(frame)
    compress(header, voxels, syntax)
    save(header, path)
    return path


def write_other(path: Path, made: Phantom, kind: str, modality: str) -> Path:
    """An object without pixels in the series' study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _header(made, kind, made.voxels[0])
    for name in ("Rows", "Columns", "PixelData", "BitsAllocated"):
        delattr(header, name)
    header.Modality, header.SeriesInstanceUID = modality, generate_uid()
    save(header, path)
    return path


def save(header: Dataset, path: Path) -> None:
    header.save_as(path, enforce_file_format=True)


def compress(header: Dataset, voxels: NDArray[np.uint16], syntax: str) -> None:
    if syntax == "rle":
        header.compress(RLELossless, generate_instance_uid=False)
    elif syntax == "jpeg-ls":
        header.compress(JPEGLSLossless, generate_instance_uid=False)
    elif syntax:  # these only GDCM can write
        with TemporaryDirectory() as folder:
            writer = sitk.ImageFileWriter()
            writer.SetFileName(f"{folder}/a.dcm")
            writer.SetUseCompression(True)
            writer.SetCompressor("JPEG2000" if syntax == "jpeg2000" else "JPEG")
            writer.Execute(sitk.GetImageFromArray(voxels.reshape(-1, *voxels.shape[-2:])))
            donor = dcmread(f"{folder}/a.dcm")
            header.PixelData = donor.PixelData
            header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
            header.file_meta.TransferSyntaxUID = donor.file_meta.TransferSyntaxUID


def _header(made: Phantom, kind: str, voxels: NDArray[np.uint16]) -> Dataset:
    header = _items(
        SOPClassUID=kind,
        SOPInstanceUID=generate_uid(),
        PatientName="Doe^Jane",
        PatientID="4711",
        PatientBirthDate="19500101",
        PatientSex="F",
        StudyInstanceUID=made.study_uid,
        StudyDate="20200101",
        StudyTime="120000",
        StudyID="1",
        AccessionNumber="",
        ReferringPhysicianName="",
        Modality="MR",
        Manufacturer="nobody",
        SeriesInstanceUID=made.series_uid,
        SeriesDescription=made.description,
        SeriesNumber=1,
        InstanceNumber=1,
        FrameOfReferenceUID=made.frame_uid,
        PositionReferenceIndicator="",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=voxels.shape[0],
        Columns=voxels.shape[1],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
    )
    header.PixelData = voxels.tobytes()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def _items(**values: Any) -> Dataset:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return found
