"""The engine: label map and confidence on the scan's own grid, measured in ml."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.preprocessing import preprocess_image
from client.segmenting.prediction import (
    LOW_CONFIDENCE,
    DeviceError,
    Model,
    Segmentation,
    measure,
    open_model,
    segment,
    torch_device,
)
from protocol.config.study import StudyProtocol
from protocol.model_io import MODEL_FILE, ModelFileError, save_model

MakeProtocol = Callable[..., StudyProtocol]
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
) -> Model:
    """A model that knows this scan's signals."""
    if levels is None:
        oriented = sitk.DICOMOrient(scan, "LPS")
        image = sitk.GetArrayFromImage(preprocess_image(scan, oriented.GetSpacing()))
        raw = sitk.GetArrayFromImage(oriented)
        levels = [float(image[raw == level][0]) for level in SIGNAL.values()]
    return Model(
        protocol=protocol,
        segmenter=Nearest(levels),
        confidence=Left() if grades else None,
        sha256="0" * 64,
        protocol_sha256="1" * 64,
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
    found = segment(model_for(scan, protocol), scan, largest_component=False)
    assert found.label_zyx.dtype == np.uint8
    np.testing.assert_array_equal(found.label_zyx, sitk.GetArrayFromImage(turned))
    assert found.confidence_zyx.shape == found.label_zyx.shape
    assert found.confidence_zyx.dtype == np.float32
    assert found.confidence_zyx.min() > 0.99  # not 0: the study's grid covers all of the scan


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
    found = segment(model, straight, largest_component=False).label_zyx
    wrong = (found == 2) != (radius_mm < 14)
    assert np.abs(radius_mm[wrong] - 14).max(initial=0) <= 1.5  # half of the longest edge
    # The study's grid begins at the patient's own corner, however the scan is stored.
    turned = sitk.DICOMOrient(straight, "SAR")
    again = sitk.GetImageFromArray(segment(model, turned, largest_component=False).label_zyx)
    again.CopyInformation(turned)
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(again, "LPS"))
    np.testing.assert_array_equal(back, found)


def test_confidence_is_d_s_map_or_the_maximum_softmax(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(spacing_mm=(1.0, 2.0, 3.0))
    scan = scan_of(sitk.DICOMOrient(phantom(), "RAI"))
    graded = model_for(scan, protocol, grades=True)
    normalised = preprocess_image(scan, protocol.spacing_mm)
    sign = np.sign(sitk.GetArrayFromImage(sitk.DICOMOrient(normalised, "RAI")))
    found = segment(graded, scan, largest_component=False)
    np.testing.assert_allclose(found.confidence_zyx, 1 / (1 + np.exp(-2.0 * sign)), atol=1e-5)
    assert graded.confidence_map == "confidence network"
    plain = model_for(scan, protocol)
    plain.segmenter.levels.data[:] = 0.0  # type: ignore[union-attr, operator]
    assert plain.confidence_map == "maximum softmax"
    confidence = segment(plain, scan, largest_component=False).confidence_zyx
    np.testing.assert_allclose(confidence, 1 / 3, atol=1e-6)


def test_one_component_an_organ_where_that_is_wanted(make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(spacing_mm=(1.0, 2.0, 3.0))
    label = phantom()
    label[25, 18, 14] = 2
    scan = scan_of(label)
    model = model_for(scan, protocol)
    every = segment(model, scan, largest_component=False).label_zyx
    one = segment(model, scan, largest_component=True).label_zyx
    assert (every[14, 18, 25], one[14, 18, 25]) == (2, 0)
    assert np.sum(every != one) == 1


def test_volumes_and_shares_by_hand() -> None:
    label = np.zeros((2, 3, 4), np.uint8)
    label[0, 0, :] = 2
    confidence = np.full(label.shape, 0.9, np.float32)
    confidence[0, 0] = (1.0, 0.5, 0.7, 0.6)
    found = measure(
        Segmentation(label_zyx=label, confidence_zyx=confidence),
        (0.5, 2.0, 10.0),
        {"ball": 2, "rod": 5},
    )
    assert LOW_CONFIDENCE == 0.8
    assert found["ball"].volume_ml == pytest.approx(0.04)  # 4 voxels of 10 mm3
    assert found["ball"].mean_confidence == pytest.approx(0.7)
    assert found["ball"].low_confidence_share == pytest.approx(0.75)
    assert (found["ball"].value, found["rod"].value) == (2, 5)
    assert found["rod"].volume_ml == 0
    assert found["rod"].mean_confidence is None
    assert found["rod"].low_confidence_share is None


def test_a_saved_model_is_opened_as_it_was(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol()
    segmenter, grader = build_segmenter(protocol), build_confidence(protocol)
    save_model(tmp_path, protocol, segmenter.state_dict(), grader.state_dict(), {"round": 1})
    model = open_model(tmp_path, "cpu", 1)
    assert model.protocol == protocol
    assert model.protocol_sha256 == protocol.digest
    assert not model.segmenter.training
    assert model.confidence is not None
    for name, tensor in segmenter.state_dict().items():
        assert torch.equal(model.segmenter.state_dict()[name], tensor)
    assert model.title == f"tiny {model.sha256[:12]}"


def test_a_study_without_d_has_none(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol(method={"lambda_adversarial": 0.0, "lambda_region": 0.0})
    save_model(tmp_path, protocol, build_segmenter(protocol).state_dict(), None, {})
    assert open_model(tmp_path, "cpu").confidence is None


def test_weights_of_another_network_are_told(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    other = build_segmenter(make_protocol(network={"width": 3}))
    save_model(tmp_path, make_protocol(), other.state_dict(), None, {})
    with pytest.raises(ModelFileError, match="not of the network that its protocol names"):
        open_model(tmp_path, "cpu")
    (tmp_path / MODEL_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="name a folder such as model/best"):
        open_model(tmp_path, "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "cuda:", "cpu0", ""])
def test_a_device_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(DeviceError, match=r"(PyTorch sees \d+ GPUs|is unknown; give auto)"):
        torch_device(name)


def test_auto_is_a_device() -> None:
    assert torch_device("auto").type in ("cpu", "cuda")
    assert torch_device("cpu") == torch.device("cpu")
