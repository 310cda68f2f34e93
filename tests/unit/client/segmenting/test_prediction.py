"""A model opened for a site, and its predictions measured in ml."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from asdnet_models.networks import build_confidence, build_segmenter
from client.segmenting.prediction import LOW_CONFIDENCE, measure, open_model
from protocol.config.study import StudyProtocol
from protocol.model_io import save_model

MakeProtocol = Callable[..., StudyProtocol]


def test_volumes_and_shares_by_hand() -> None:
    label = np.zeros((2, 3, 4), np.uint8)
    label[0, 0, :] = 2
    confidence = np.full(label.shape, 0.9, np.float32)
    confidence[0, 0] = (1.0, 0.5, 0.7, 0.6)
    found = measure(label, confidence, (0.5, 2.0, 10.0), {"ball": 2, "rod": 5})
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
    assert not model.networks.segmenter.training
    assert model.networks.confidence is not None
    for name, tensor in segmenter.state_dict().items():
        assert torch.equal(model.networks.segmenter.state_dict()[name], tensor)
    assert model.title == f"tiny {model.sha256[:12]}"


def test_a_study_without_d_has_none(make_protocol: MakeProtocol, tmp_path: Path) -> None:
    protocol = make_protocol(method={"lambda_adversarial": 0.0, "lambda_region": 0.0})
    save_model(tmp_path, protocol, build_segmenter(protocol).state_dict(), None, {})
    assert open_model(tmp_path, "cpu").networks.confidence is None
