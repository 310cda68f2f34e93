"""The engine: label map and confidence on the scan's own grid, from a model or its folder."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from asdnet_models.config import ModelConfig
from asdnet_models.inference.predictor import SegmentationModel, load_model
from asdnet_models.model_files import MODEL_FILE, PROTOCOL_FILE, ModelFileError
from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.preprocessing import preprocess_image
from protocol.config.study import StudyProtocol
from protocol.model_io import save_model

MakeProtocol = Callable[..., StudyProtocol]


def array(image: sitk.Image) -> NDArray[Any]:
    return sitk.GetArrayFromImage(image)


SIGNAL = {0: 100.0, 2: 300.0, 5: 500.0}


class Nearest(nn.Module):
    """The class whose normalised signal a voxel is nearest to."""

    def __init__(self, levels: list[float]) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor(levels).reshape(1, 3, 1, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return -20 * (image - self.levels).abs()


class Left(nn.Module):
    """Trusts the first half of whatever axis is the patient's x, by the class maps' mean."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(2.0))

    def forward(self, maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.bias * torch.sign(image)


def phantom(spacing_mm: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> sitk.Image:
    """Label values as voxels: blocks that no flip or exchange of axes maps onto themselves."""
    label = np.zeros((16, 20, 28), np.uint8)
    label[3:9, 4:14, 5:11] = 2
    label[9:13, 4:8, 11:23] = 5
    image = sitk.GetImageFromArray(label)
    image.SetSpacing(spacing_mm)
    image.SetOrigin((-11.0, 7.0, 30.0))
    return image


def scan_of(label: sitk.Image) -> sitk.Image:
    signal = sitk.GetArrayFromImage(label).astype(np.float32)
    for value, level in SIGNAL.items():
        signal[signal == value] = level
    scan = sitk.GetImageFromArray(signal)
    scan.CopyInformation(label)
    return scan


def model_for(
    scan: sitk.Image,
    protocol: StudyProtocol,
    *,
    grades: bool = False,
    levels: list[float] | None = None,
) -> SegmentationModel:
    """A model that knows this scan's signals."""
    if levels is None:
        oriented = sitk.DICOMOrient(scan, "LPS")
        image = sitk.GetArrayFromImage(preprocess_image(scan, oriented.GetSpacing()))
        raw = sitk.GetArrayFromImage(oriented)
        levels = [float(image[raw == level][0]) for level in SIGNAL.values()]
    return SegmentationModel(
        config=protocol,
        segmenter=Nearest(levels),
        confidence=Left() if grades else None,
    )


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "PIR", "SLA", "ASL"])
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_the_label_map_lies_on_the_scan_s_own_grid(
    make_protocol: MakeProtocol, orientation: str, tilt: float
) -> None:
    protocol = make_protocol(spacing_mm=(1.0, 2.0, 3.0))
    label = phantom()
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), tilt, tilt / 2, -tilt)
    label.SetDirection(turn.GetMatrix())
    turned = sitk.DICOMOrient(label, orientation)
    scan = scan_of(turned)
    found = model_for(scan, protocol).predict(scan)
    assert found.label.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(array(found.label), array(turned))
    for image in (found.label, found.confidence):
        assert image.IsSameImageGeometryAs(scan)
    assert found.confidence.GetPixelID() == sitk.sitkFloat32
    assert array(found.confidence).min() > 0.99  # not 0: the study's grid covers all of the scan
    assert found.probabilities is None


def test_resampling_moves_a_boundary_by_half_a_voxel_at_most(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(spacing_mm=(1.5, 1.5, 1.5))
    z, y, x = np.mgrid[:16, :44, :40].astype(float)
    radius_mm = np.sqrt((x - 19.3) ** 2 + (y - 21.1) ** 2 + (3 * (z - 7.4)) ** 2)
    ball = sitk.GetImageFromArray((2 * (radius_mm < 14)).astype(np.uint8))
    ball.SetSpacing((1.0, 1.0, 3.0))
    straight = scan_of(ball)
    on_grid = sitk.GetArrayFromImage(preprocess_image(straight, protocol.spacing_mm))
    levels = [float(np.median(on_grid[on_grid < 0])), float(on_grid.max()), 99.0]
    model = model_for(straight, protocol, levels=levels)
    found = array(model.predict(straight, largest_component=False).label)
    wrong = (found == 2) != (radius_mm < 14)
    assert np.abs(radius_mm[wrong] - 14).max(initial=0) <= 1.5  # half of the longest edge
    # The study's grid begins at the patient's own corner, however the scan is stored.
    turned = sitk.DICOMOrient(straight, "SAR")
    again = model.predict(turned, largest_component=False).label
    back = array(sitk.DICOMOrient(again, "LPS"))
    np.testing.assert_array_equal(back, found)


def test_confidence_is_d_s_map_or_the_maximum_softmax(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(spacing_mm=(1.0, 2.0, 3.0))
    scan = scan_of(sitk.DICOMOrient(phantom(), "RAI"))
    graded = model_for(scan, protocol, grades=True)
    normalised = preprocess_image(scan, protocol.spacing_mm)
    sign = np.sign(sitk.GetArrayFromImage(sitk.DICOMOrient(normalised, "RAI")))
    found = graded.predict(scan, largest_component=False)
    np.testing.assert_allclose(array(found.confidence), 1 / (1 + np.exp(-2.0 * sign)), atol=1e-5)
    assert graded.confidence_map == "confidence network"
    plain = model_for(scan, protocol)
    plain.segmenter.levels.data[:] = 0.0  # type: ignore[union-attr, operator]
    assert plain.confidence_map == "maximum softmax"
    confidence = array(plain.predict(scan, largest_component=False).confidence)
    np.testing.assert_allclose(confidence, 1 / 3, atol=1e-6)


def test_one_component_an_organ_where_that_is_wanted(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(spacing_mm=(1.0, 2.0, 3.0))
    label = phantom()
    label[25, 18, 14] = 2
    scan = scan_of(label)
    model = model_for(scan, protocol)
    every = array(model.predict(scan, largest_component=False).label)
    one = array(model.predict(scan, largest_component=True).label)
    assert (every[14, 18, 25], one[14, 18, 25]) == (2, 0)
    assert np.sum(every != one) == 1
    np.testing.assert_array_equal(array(model.predict(scan, largest_component=["ball"]).label), one)
    other = model.predict(scan, largest_component=["rod"])
    np.testing.assert_array_equal(array(other.label), every)
    with pytest.raises(ValueError, match="no organ of this study: 'bal'; its organs are ball, rod"):
        model.predict(scan, largest_component=["bal"])


def test_weights_of_another_network_are_reported(
    make_protocol: MakeProtocol, tmp_path: Path
) -> None:
    other = build_segmenter(make_protocol(network={"width": 3}))
    save_model(tmp_path, make_protocol(), other.state_dict(), None, {})
    with pytest.raises(ModelFileError, match="not of the network that its protocol names"):
        load_model(tmp_path, device="cpu")
    (tmp_path / MODEL_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="name a folder such as model/best"):
        load_model(tmp_path, device="cpu")


@pytest.fixture
def saved(make_protocol: MakeProtocol, tmp_path: Path) -> Path:
    """A study's model in a folder, as the centre saves it."""
    protocol = make_protocol(spacing_mm=(1.0, 2.0, 3.0), evaluation={"largest_component": True})
    segmenter, confidence = build_segmenter(protocol), build_confidence(protocol)
    save_model(tmp_path, protocol, segmenter.state_dict(), confidence.state_dict(), {"round": 1})
    return tmp_path


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another protocol.json, of which the weights say that they are its own."""
    content = json.loads((folder / PROTOCOL_FILE).read_text())
    change(content)
    (folder / PROTOCOL_FILE).write_text(json.dumps(content))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    facts = {"facts": json.dumps({"protocol_sha256": digest})}
    save_file(load_file(folder / MODEL_FILE), folder / MODEL_FILE, facts)


def test_a_folder_is_a_model(saved: Path) -> None:
    model = load_model(str(saved), device="cpu")
    assert type(model.config) is ModelConfig
    assert model.config.organs == {"ball": 2, "rod": 5}
    assert model.config.evaluation.largest_component
    assert model.confidence_map == "confidence network"
    scan = scan_of(phantom())
    found = model.predict(scan, probabilities=True)
    assert found.label.IsSameImageGeometryAs(scan)
    assert set(np.unique(array(found.label))) <= {0, 2, 5}
    assert found.probabilities is not None
    assert found.probabilities.shape == (3, *scan.GetSize()[::-1])
    np.testing.assert_allclose(found.probabilities.sum(0), 1.0, atol=1e-5)
    every = array(model.predict(scan, largest_component=False).label)
    np.testing.assert_array_equal(every, np.array([0, 2, 5])[found.probabilities.argmax(0)])
    again = load_model(saved, device="cpu").predict(scan)
    np.testing.assert_array_equal(array(again.label), array(found.label))
    np.testing.assert_array_equal(array(again.confidence), array(found.confidence))


def test_a_later_study_s_further_settings_are_not_the_library_s_business(saved: Path) -> None:
    before = load_model(saved, device="cpu").config

    def later(content: dict[str, Any]) -> None:
        content["schedule"] = {"new": 1}
        content["evaluation"]["every_minutes"] = 3
        del content["contract"], content["training"]

    changed(saved, later)
    assert load_model(saved, device="cpu").config == before


@pytest.mark.parametrize("section", ["network", "confidence", "method"])
def test_an_unknown_setting_of_a_network_is_refused(saved: Path, section: str) -> None:
    changed(saved, lambda content: content[section].update(shortcut=True))
    with pytest.raises(ModelFileError, match=rf"is not a protocol: (.|\n)*{section}.shortcut"):
        load_model(saved, device="cpu")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_protocol_that_is_none_is_refused(saved: Path, text: str) -> None:
    (saved / PROTOCOL_FILE).write_text(text)
    with pytest.raises(ModelFileError, match=r"protocol\.json: is not a protocol"):
        load_model(saved, device="cpu")


def test_a_missing_tensor_is_reported(saved: Path, make_protocol: MakeProtocol) -> None:
    with safe_open(saved / MODEL_FILE, "pt") as file:
        facts = file.metadata()
    tensors = load_file(saved / MODEL_FILE)
    save_file(dict(list(tensors.items())[1:]), saved / MODEL_FILE, facts)
    with pytest.raises(ModelFileError, match="not of the network that its protocol names"):
        load_model(saved, device="cpu")


@pytest.mark.parametrize(
    "image",
    [sitk.Image([8, 8], sitk.sitkInt16), sitk.Image([8, 8, 8], sitk.sitkVectorFloat32, 2)],
)
def test_what_is_no_scan_is_refused(saved: Path, image: sitk.Image) -> None:
    with pytest.raises(ValueError, match="give one volume of one channel"):
        load_model(saved, device="cpu").predict(image)


def with_voxel(value: float) -> sitk.Image:
    scan = sitk.Cast(scan_of(phantom()), sitk.sitkFloat32)
    scan[3, 4, 5] = value
    return scan


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (with_voxel(float("nan")), r"NaN or infinite in 1 voxel\(s\)"),
        (with_voxel(float("inf")), r"NaN or infinite in 1 voxel\(s\)"),
        (sitk.Image([8, 8, 8], sitk.sitkFloat32), "is constant"),
        (sitk.Image([8, 8, 1], sitk.sitkFloat32), "give at least two along each axis"),
        (sitk.Image([8, 8, 8], sitk.sitkComplexFloat32), "complex voxels"),
    ],
)
def test_voxels_that_show_nothing_are_refused(saved: Path, image: sitk.Image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(saved, device="cpu").predict(image)


@pytest.mark.parametrize("image", ["scan.nii.gz", Path("scan.nii.gz"), None])
def test_a_path_is_no_image(saved: Path, image: Any) -> None:
    with pytest.raises(TypeError, match=r"give a SimpleITK image, such as SimpleITK\.ReadImage"):
        load_model(saved, device="cpu").predict(image)


@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkFloat64])
def test_the_voxel_type_of_a_file_changes_nothing(saved: Path, pixel: int) -> None:
    model = load_model(saved, device="cpu")
    scan = sitk.Cast(scan_of(phantom((0.7, 1.1, 1.3))), pixel)
    expected = model.predict(sitk.Cast(scan, sitk.sitkFloat32))
    segmentation = model.predict(scan)
    np.testing.assert_array_equal(array(segmentation.label), array(expected.label))
    np.testing.assert_array_equal(array(segmentation.confidence), array(expected.confidence))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    with safe_open(saved / MODEL_FILE, "pt") as file:
        facts = file.metadata()
    tensors = load_file(saved / MODEL_FILE)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = value
    save_file(tensors, saved / MODEL_FILE, facts)
    with pytest.raises(ModelFileError, match=f"{name} is NaN or infinite"):
        load_model(saved, device="cpu")
