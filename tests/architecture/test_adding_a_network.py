"""CONTRIBUTING's example of a new network is run as it is printed there."""

from pathlib import Path

import pytest
import torch
from contributing import add_module, blocks

import asdnet_models.networks
from asdnet_models.catalogue import NETWORKS, Network
from asdnet_models.methods import method_named
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.methods.common import Networks
from asdnet_models.networks import build_segmenter
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol

MODULE, LINE = blocks("Adding a network")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed file beside the other networks, and the printed line in the catalogue."""
    add_module(asdnet_models.networks, "plain", MODULE, tmp_path, monkeypatch)
    for name, network in eval("{" + LINE + "}", {"Network": Network}).items():
        monkeypatch.setitem(NETWORKS, name, network)


def protocol() -> StudyProtocol:
    return StudyProtocol.model_validate(
        {
            "organs": {"bladder": 1, "prostate": 2},
            "patch_voxels": (16, 8, 24),
            "network": {"architecture": "plain", "width": 4, "kernel": 3},
            "method": {"lambda_adversarial": 0, "lambda_region": 0},
        }
    )


def test_without_the_line_the_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be one of svnet, vnet, .*, not 'plain'"):
        protocol()


@pytest.mark.usefixtures("plain")
def test_the_example_starts_from_the_seed() -> None:
    study = protocol()
    first, again = build_segmenter(study).state_dict(), build_segmenter(study).state_dict()
    other = build_segmenter(study.model_copy(update={"seed": 7})).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    # 1 x 4 kernels of 27, two values a channel of the norm, 4 x 3 weights and 3 biases.
    assert sum(tensor.numel() for tensor in first.values()) == 108 + 8 + 12 + 3


@pytest.mark.usefixtures("plain")
def test_the_example_learns() -> None:
    study = protocol()
    segmenter = build_segmenter(study)
    optimiser = torch.optim.Adam(segmenter.parameters(), 1e-2)
    method = method_named(study.method.name)(
        Networks(segmenter=segmenter, segmenter_optimiser=optimiser),
        study.method,
        plan_round(study, 1),
        proximal=None,
        generator=torch.Generator().manual_seed(1),
    )
    label = torch.zeros(2, 1, *study.patch_voxels, dtype=torch.long)
    label[:, :, 3:9], label[:, :, 11:14] = 1, 2
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    batch = LabelledBatch(image=label.float(), label=label)
    losses = [method.step(batch, None).losses["dice"] for _ in range(10)]
    assert losses[-1] < losses[0]
    assert not any(torch.equal(before[n], tensor) for n, tensor in segmenter.state_dict().items())
