"""CONTRIBUTING's example of a new method is run as it is printed there."""

from pathlib import Path

import pytest
import torch
from contributing import add_module, blocks

import asdnet_models.methods
from asdnet_models.catalogue import METHODS, Method
from asdnet_models.methods import method_named
from asdnet_models.methods.batches import LabelledBatch, UnlabelledBatch
from asdnet_models.methods.common import Networks
from asdnet_models.networks import build_segmenter
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol

MODULE, LINE = blocks("Adding a method")


@pytest.fixture
def entropy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed file beside the other methods, and the printed line in the catalogue."""
    add_module(asdnet_models.methods, "entropy", MODULE, tmp_path, monkeypatch)
    for name, method in eval("{" + LINE + "}", {"Method": Method}).items():
        monkeypatch.setitem(METHODS, name, method)


def protocol() -> StudyProtocol:
    return StudyProtocol.model_validate(
        {
            "organs": {"bladder": 1, "prostate": 2},
            "patch_voxels": (16, 8, 24),
            "network": {"architecture": "unet", "width": 4, "kernel": 3},
            "method": {"name": "entropy", "lambda_region": 0.3},
        }
    )


def losses(labelled: LabelledBatch | None, unlabelled: UnlabelledBatch | None) -> list[float]:
    """What ten steps from the study's first weights say."""
    study = protocol()
    segmenter = build_segmenter(study)
    networks = Networks(
        segmenter=segmenter, segmenter_optimiser=torch.optim.Adam(segmenter.parameters(), 1e-2)
    )
    method = method_named(study.method.name)(
        networks,
        study.method,
        plan_round(study, 1),
        proximal=None,
        generator=torch.Generator().manual_seed(1),
    )
    return [method.step(labelled, unlabelled).losses["total"] for _ in range(10)]


def test_without_the_line_the_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be one of asdnet, .*, not 'entropy'"):
        protocol()


@pytest.mark.usefixtures("entropy")
def test_the_example_learns_with_and_without_labels() -> None:
    label = torch.zeros(2, 1, 16, 8, 24, dtype=torch.long)
    label[:, :, 3:9], label[:, :, 11:14] = 1, 2
    labelled = LabelledBatch(image=label.float(), label=label)
    unlabelled = UnlabelledBatch(image=label.float().flip(2))
    alone, both = losses(labelled, None), losses(labelled, unlabelled)
    assert alone[-1] < alone[0] and both[-1] < both[0]
    unsure = losses(None, unlabelled)
    assert unsure[-1] < unsure[0]
    # The first step's terms add up: nothing has been learnt yet.
    assert both[0] == pytest.approx(alone[0] + unsure[0], rel=1e-4)
