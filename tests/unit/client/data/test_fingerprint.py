"""The fingerprint of a site's made cases, and what of it leaves."""

import numpy as np
import pytest
import SimpleITK as sitk

import client.datacheck.fingerprint
from client.data.blocks import write_released
from client.data.fingerprint import case_shape
from client.datacheck.fingerprint import site_fingerprint, with_machine
from protocol.planning.fingerprint import Fingerprint, Share, Spread
from tests.conftest import MakeProtocol, MakeSite


def _scan(array_zyx: np.ndarray, spacing_xyz: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(spacing_xyz)
    return image


def test_lengths_are_along_the_patients_axes() -> None:
    """A sagittal scan: its first axis runs to the back, its second to the head."""
    label = np.zeros((6, 20, 10), np.uint8)
    label[1:5, 4:9, 2:8] = 2
    scan = _scan(np.ones((6, 20, 10), np.float32), (1.0, 2.0, 5.0))
    drawn = _scan(label, (1.0, 2.0, 5.0))
    for image in (scan, drawn):
        image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))
    shape = case_shape(scan, drawn, np.ones((3, 10, 5), bool), {"ball": 2, "rod": 5})
    assert shape.spacing_mm == (5.0, 1.0, 2.0)
    assert shape.size_voxels == (6.0, 10.0, 20.0)
    assert shape.extent_mm == (30.0, 10.0, 40.0)
    assert shape.organ_extent_mm == {"ball": (20.0, 6.0, 10.0)}
    assert shape.one_component == {"ball": True}
    assert not shape.wider_than_body


def test_pieces_and_air() -> None:
    label = np.zeros((10, 10, 10), np.uint8)
    label[0:4, :4, :4] = 1
    label[6:9, :4, :4] = 1
    body = np.zeros((10, 10, 10), bool)
    body[:, :, 2:9] = True
    scan = _scan(np.ones((10, 10, 10), np.float32), (1.0, 1.0, 1.0))
    shape = case_shape(scan, _scan(label, (1.0, 1.0, 1.0)), body, {"ball": 1})
    assert shape.one_component == {"ball": False}
    assert shape.wider_than_body


def test_a_site_says_its_training_cases(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config = make_site(labelled=6, unlabelled=3, validation=2, test=2, threshold=3)
    found, _ = site_fingerprint(config, make_protocol())
    assert (found.labelled, found.unlabelled) == (6, 3)
    assert found.size_voxels[0].cases == 9
    assert len(found.size_voxels[0].means) == 3
    assert found.organs["ball"].volume_ml.cases == 6
    # Six cases are one part of six: a median of three would need nine.
    assert len(found.organs["ball"].volume_ml.means) == 1
    assert found.organs["ball"].one_component.cases == 6


def test_too_few_cases_say_nothing(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    found, _ = site_fingerprint(make_site(labelled=2, threshold=3), make_protocol())
    assert {spread for _, spread, _ in found.spreads()} == {Spread()}
    assert {share for _, share in found.shares()} == {Share()}


def test_two_fingerprints_cannot_be_subtracted(
    make_site: MakeSite, make_protocol: MakeProtocol
) -> None:
    """A fourth case that has come since the first answer waits for two more."""
    protocol = make_protocol()
    before, release = site_fingerprint(make_site(labelled=3, threshold=3), protocol)
    config = make_site(labelled=4, threshold=3)
    write_released(config, release)
    after, _ = site_fingerprint(config, protocol)
    assert after.spacing_mm == before.spacing_mm
    assert after.organs == before.organs
    config = make_site(labelled=6, threshold=3)
    assert site_fingerprint(config, protocol)[0].spacing_mm[0].cases == 6


def test_a_torn_block_is_held_back(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    config = make_site(labelled=4, threshold=3)
    _, release = site_fingerprint(config, make_protocol())
    write_released(config, release)
    next((config.data / "imagesTr").iterdir()).unlink()
    for file in (config.data / "labelsTr").iterdir():
        if not (config.data / "imagesTr" / file.name).exists():
            file.unlink()
    found, _ = site_fingerprint(config, make_protocol())
    assert found.labelled == 3
    assert found.spacing_mm[0] == Spread()
    assert found.organs["rod"].volume_ml == Spread()


def test_a_machine_is_tried(
    make_site: MakeSite, make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.datacheck.fingerprint, "REFERENCE", make_protocol())
    found = with_machine(Fingerprint(), make_site(labelled=1))
    assert 0 < found.step_seconds < 60
    assert 0 < found.memory_gib <= make_site().limits.max_memory_gib
