"""Whatever a scan's header holds: its NIfTI is made, and DICOM files of what is valid in it."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dicom_phantoms as ph
import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

import client.data.dicom.derived.structures
from asdnet_models.networks import build_confidence, build_segmenter
from client.data.pseudonyms import Pseudonyms
from client.segmenting.batch import Outcome, predict_all
from client.segmenting.options import Options
from client.segmenting.prediction import Model, open_model
from client.segmenting.sources import Source
from protocol.config.study import StudyProtocol
from protocol.model_io import save_model

Edit = Callable[[Dataset, int], None]
ALWAYS = {"confidence.nii.gz", "overview.png", "segmentation.nii.gz"}
SEG, RTSTRUCT = "segmentation.seg.dcm", "segmentation.rtstruct.dcm"
JAPANESE, KOREAN = "Yamada^Tarou=山田^太郎=やまだ^たろう", "Kim^Hijung=金^희중=김^희중"


@contextmanager
def unchecked() -> Iterator[None]:
    with config.disable_value_validation():
        yield


def put(**values: object) -> Edit:
    """Values as pydicom encodes them, valid or not."""

    def edit(header: Dataset, _: int) -> None:
        for name, value in values.items():
            setattr(header, name, value)

    return edit


def stored(**values: bytes) -> Edit:
    """The bytes of attributes, whatever they mean."""

    def edit(header: Dataset, _: int) -> None:
        for name, value in values.items():
            tag = Tag(tag_for_keyword(name))  # type: ignore[arg-type]
            padded = value + b" " * (len(value) % 2)
            header._dict[tag] = RawDataElement(
                tag, dictionary_VR(tag), len(padded), padded, 0, False, True
            )

    return edit


def without(*names: str) -> Edit:
    def edit(header: Dataset, _: int) -> None:
        for name in names:
            if name in header:
                delattr(header, name)

    return edit


def each(change: Callable[[Dataset, int], object]) -> Edit:
    def edit(header: Dataset, z: int) -> None:
        change(header, z)

    return edit


def broken_sequence(header: Dataset, _: int) -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.x", "no identifier"
    header.ReferencedStudySequence = [item]


def private_junk(header: Dataset, _: int) -> None:
    block = header.private_block(0x0011, "山田", create=True)
    block.add_new(1, "LO", "\x00\x1b$B junk")


@dataclass(frozen=True, kw_only=True)
class Fault:
    edit: Edit
    name: str = "Doe^Jane"
    left_out: tuple[str, ...] = ()
    not_written: str = ""


FAULTS = {
    "Japanese": Fault(
        edit=put(SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=JAPANESE), name=JAPANESE
    ),
    "Japanese, half width": Fault(
        edit=put(
            SpecificCharacterSet=["ISO 2022 IR 13", "ISO 2022 IR 87"],
            PatientName="ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        name="ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
    ),
    "Korean": Fault(
        edit=put(SpecificCharacterSet=["", "ISO 2022 IR 149"], PatientName=KOREAN), name=KOREAN
    ),
    "Chinese": Fault(
        edit=put(SpecificCharacterSet="GB18030", PatientName="Wang^XiaoDong=王^小东"),
        name="Wang^XiaoDong=王^小东",
    ),
    "Greek": Fault(
        edit=put(SpecificCharacterSet="ISO_IR 126", PatientName="Διονυσιος"), name="Διονυσιος"
    ),
    "Latin-1": Fault(
        edit=put(SpecificCharacterSet="ISO_IR 100", PatientName="Buc^Jérôme"), name="Buc^Jérôme"
    ),
    "UTF-8": Fault(
        edit=put(SpecificCharacterSet="ISO_IR 192", PatientName="Wang=王^小東"), name="Wang=王^小東"
    ),
    "Japanese study, not the name": Fault(
        edit=put(
            SpecificCharacterSet=["", "ISO 2022 IR 87"],
            StudyDescription="骨盤 MRI",
            InstitutionName="大学病院",
        )
    ),
    "Latin-1, not declared": Fault(
        edit=stored(PatientName="Buc^Jérôme".encode("latin1")), name="", left_out=("PatientName",)
    ),
    "UTF-8, not declared": Fault(
        edit=stored(PatientName="山田^太郎".encode()), name="", left_out=("PatientName",)
    ),
    "Latin-1, declared as UTF-8": Fault(
        edit=stored(SpecificCharacterSet=b"ISO_IR 192", PatientName=b"Buc^J\xe9r\xf4me"),
        name="",
        left_out=("PatientName",),
    ),
    "unknown character set": Fault(
        edit=stored(SpecificCharacterSet=b"EBCDIC", PatientID="Ä1".encode("latin1")),
        left_out=("PatientID",),
    ),
    "five parts of a name": Fault(
        edit=put(PatientName="Doe^Jane^M^Dr^PhD"), name="Doe^Jane^M^Dr^PhD"
    ),
    "six parts of a name": Fault(
        edit=put(PatientName="a^b^c^d^e^f"), name="", left_out=("PatientName",)
    ),
    "a name of 70 characters": Fault(
        edit=put(PatientName="x" * 70), name="", left_out=("PatientName",)
    ),
    "an ID of two values": Fault(edit=stored(PatientID=b"4711\\4712"), left_out=("PatientID",)),
    "control characters": Fault(
        edit=stored(PatientID=b"47\x0011", StudyID=b"\x1b(J"), left_out=("PatientID", "StudyID")
    ),
    "no patient": Fault(
        edit=without("PatientName", "PatientID", "PatientBirthDate", "PatientSex"), name=""
    ),
    "an empty patient": Fault(
        edit=put(PatientName="", PatientID="", PatientBirthDate="", PatientSex=""), name=""
    ),
    "no study's facts": Fault(
        edit=without(
            "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"
        )
    ),
    "bad time": Fault(edit=stored(StudyTime=b"25:61"), left_out=("StudyTime",)),
    "a fraction of a second": Fault(edit=stored(StudyTime=b"235959.5")),
    "date with dashes": Fault(
        edit=stored(StudyDate=b"2026-01-01", PatientBirthDate=b"00000000"),
        left_out=("PatientBirthDate", "StudyDate"),
    ),
    "date of two digits": Fault(edit=stored(StudyDate=b"260101"), left_out=("StudyDate",)),
    "sex in a word": Fault(edit=stored(PatientSex=b"female"), left_out=("PatientSex",)),
    "age without unit, weight in words": Fault(
        edit=stored(PatientAge=b"45", PatientWeight=b"heavy"),
        left_out=("PatientAge", "PatientWeight"),
    ),
    "a broken sequence": Fault(edit=each(broken_sequence), left_out=("ReferencedStudySequence",)),
    "private junk": Fault(edit=each(private_junk)),
    "no series number, modality or laterality": Fault(
        edit=each(
            lambda header, z: (
                without("SeriesNumber", "InstanceNumber")(header, z),
                stored(Laterality=b"both sides of it")(header, z),
            )
        )
    ),
    "no thickness, a negative spacing": Fault(
        edit=each(
            lambda header, z: (
                without("SliceThickness")(header, z),
                stored(SpacingBetweenSlices=b"-3")(header, z),
            )
        )
    ),
    "numbers of more digits than there may be": Fault(
        edit=stored(
            PixelSpacing=b"0.70000000000000001\\0.50000000000000001",
            SliceThickness=b"3." + b"0" * 20,
        )
    ),
    "orientations that differ by rounding": Fault(
        edit=each(
            lambda header, z: setattr(
                header, "ImageOrientationPatient", ["1", "0", f"{1e-7 * z:.9f}", "0", "1", "0"]
            )
        )
    ),
    "no study": Fault(edit=without("StudyInstanceUID"), not_written="StudyInstanceUID is missing"),
    "an invalid study": Fault(
        edit=stored(StudyInstanceUID=b"1.2.study"), not_written="StudyInstanceUID is missing, or"
    ),
    "no frame of reference": Fault(
        edit=without("FrameOfReferenceUID"), not_written="names no frame of reference"
    ),
    "one identifier for all slices": Fault(
        edit=put(SOPInstanceUID="1.2.3"), not_written="SOPInstanceUID is the same in several"
    ),
}


@pytest.fixture
def model(make_protocol: Callable[..., StudyProtocol], tmp_path: Path) -> Model:
    protocol = make_protocol()
    torch.manual_seed(3)
    networks = build_segmenter(protocol).state_dict(), build_confidence(protocol).state_dict()
    save_model(tmp_path / "model", protocol, *networks, {"round": 1})
    return open_model(tmp_path / "model", "cpu", 1)


def predicted(folder: Path, model: Model, edit: Edit) -> tuple[Outcome, Path]:
    with unchecked():
        ph.write_classic(folder / "scan", ph.phantom((9, 14, 18)), edit=edit)
    source, out = Source(name="scan", path=folder / "scan"), folder / "out"
    out.mkdir()
    (outcome,) = predict_all([source], out, model, Options(), Pseudonyms(bytes(32)))
    return outcome, out / outcome.case


def complaints(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        return []
    told = subprocess.run(["dciodvfy", path], capture_output=True, check=False).stderr
    return [line for line in told.decode("utf-8", "replace").splitlines() if "Error" in line]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_valid_is_written(fault: str, model: Model, tmp_path: Path) -> None:
    expected = FAULTS[fault]
    outcome, made = predicted(tmp_path, model, expected.edit)
    assert outcome.status == "done", outcome.failure
    assert outcome.result is not None
    assert set(outcome.result.files) >= ALWAYS
    assert outcome.result.left_out == expected.left_out
    told = "; ".join(outcome.result.remarks)
    assert all(keyword in told for keyword in expected.left_out)
    if expected.not_written:
        assert set(outcome.result.files) == ALWAYS
        assert set(outcome.result.unmade) == {"seg", "rtstruct"}
        assert all(expected.not_written in why for why in outcome.result.unmade.values())
        assert expected.not_written in told
        return
    assert outcome.result.unmade == {}
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(made / "segmentation.nii.gz")))
    found = hd.seg.segread(made / SEG)
    for number, value in enumerate(model.protocol.organs.values(), start=1):
        frames = found.get_volume(segment_numbers=[number], combine_segments=False)
        assert int(frames.array.sum()) == int((label == value).sum())
    for name in (SEG, RTSTRUCT):
        header = dcmread(made / name)
        assert str(header.PatientName) == expected.name
        assert not any(header.get(keyword) for keyword in expected.left_out)
        assert complaints(made / name) == []
        plain = expected.name.isascii() and "Japanese" not in fault
        assert header.get("SpecificCharacterSet") == (None if plain else "ISO_IR 192")


def test_result_json_tells_keywords_and_never_values(model: Model, tmp_path: Path) -> None:
    edit = stored(PatientName="Müstermann".encode("latin1"), StudyTime=b"25:61")
    _, made = predicted(tmp_path, model, edit)
    content = (made / "result.json").read_text("utf-8")
    assert json.loads(content)["left_out"] == ["PatientName", "StudyTime"]
    for secret in ("stermann", "25:61", "4711", "Doe"):
        assert secret not in content


def test_segments_of_a_private_kind_of_slice_are_refused_contours_are_not(
    model: Model, tmp_path: Path
) -> None:
    outcome, made = predicted(tmp_path, model, put(SOPClassUID="1.3.12.2.1107.5.9.1"))
    assert outcome.result is not None
    assert set(outcome.result.files) == {*ALWAYS, RTSTRUCT}
    assert "manufacturer's own kind" in outcome.result.not_written["seg"]
    assert complaints(made / RTSTRUCT) == []


def test_a_writer_that_fails_for_no_known_reason_costs_its_own_file_alone(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def fails(*_: object) -> None:
        raise KeyError("Mustermann")

    monkeypatch.setattr(client.data.dicom.derived.structures, "outlines", fails)
    monkeypatch.setattr(
        "client.segmenting.prediction.SegmentationModel.predict", everything_is_an_organ(model)
    )
    outcome, made = predicted(tmp_path, model, put())
    assert outcome.result is not None
    assert set(outcome.result.files) == {*ALWAYS, SEG}
    assert "KeyError" in outcome.result.not_written["rtstruct"]
    for path in made.iterdir():
        assert b"Mustermann" not in path.read_bytes()
    assert "KeyError" in (tmp_path / "state" / "asdnet" / "unexpected.log").read_text()


def everything_is_an_organ(model: Model) -> Callable[..., object]:
    predict = type(model.networks).predict

    def predicted_so(self: object, image: sitk.Image, **options: object) -> object:
        found = predict(self, image, **options)  # type: ignore[arg-type]
        value = min(model.protocol.organs.values())
        drawn = sitk.GetImageFromArray(np.full(image.GetSize()[::-1], value, np.uint8))
        drawn.CopyInformation(image)
        return type(found)(label=drawn, confidence=found.confidence)

    return predicted_so
