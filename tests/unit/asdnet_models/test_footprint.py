"""Parameters and memory of training, from the networks' form alone."""

import re
from pathlib import Path

import pytest

from asdnet_models.catalogue import NETWORKS
from asdnet_models.networks import build_confidence, build_segmenter, empty_networks
from asdnet_models.networks.footprint import footprint
from client.node.training_rehearsal import rehearse_training
from protocol.config.presets import preset
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged

QUICK = preset("quick")


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_parameters_are_those_of_the_networks(architecture: str, norm: str) -> None:
    study = merged(
        QUICK,
        {
            "network": {"architecture": architecture, "norm": norm, "width": 4},
            "patch_voxels": (32, 32, 32),
        },
    )
    built = [build_segmenter(study), build_confidence(study)]
    count = sum(p.numel() for network in built for p in network.parameters())
    assert footprint(study, 2).parameters == count
    for empty, network in zip(empty_networks(study), built, strict=True):
        assert all(p.is_meta for p in empty.parameters())
        assert {n: p.shape for n, p in empty.named_parameters()} == {
            n: p.shape for n, p in network.named_parameters()
        }


def test_memory_grows_with_what_is_asked_for() -> None:
    def bytes_of(change: dict[str, object], batch: int = 2) -> int:
        return footprint(merged(QUICK, change), batch).step_bytes

    base = bytes_of({})
    graphs = base - 128 * 2**20
    assert bytes_of({}, batch=4) - base > 0.8 * graphs
    assert bytes_of({"patch_voxels": (48, 40, 48)}) - base > 0.8 * graphs
    assert bytes_of({"network": {"width": 16}}) > base
    assert bytes_of({"confidence": {"width": 16}}) > base
    assert bytes_of({"method": {"fakes_from_unlabelled": True}}) > base


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"network": {"architecture": "unet", "width": 16}, "patch_voxels": (64, 64, 32)},
    ],
    ids=["quick", "unet"],
)
def test_the_estimate_is_near_what_a_step_takes(change: dict[str, object], tmp_path: Path) -> None:
    """The peak of a real step in a process of its own."""
    study: StudyProtocol = merged(QUICK, change)
    site = SiteConfig(
        site="A", data=tmp_path, cache=tmp_path, state=tmp_path, device="cpu", threads=1
    )
    status, finding, _ = rehearse_training(site, study, "")
    measured = re.search(r"and ([\d.]+) (MB|GB) of", finding)
    assert status == "ok"
    assert measured, finding
    peak = float(measured[1]) * {"MB": 1e6, "GB": 1e9}[measured[2]]
    assert 0.9 < footprint(study, 2).step_bytes / peak < 2.0
