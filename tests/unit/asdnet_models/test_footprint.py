"""Parameters and memory of training, from the networks' form alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from asdnet_models.catalogue import NETWORKS
from asdnet_models.networks import build_confidence, build_segmenter, empty_networks
from asdnet_models.networks.footprint import footprint
from client.node.training_rehearsal import Step, rehearse_training
from protocol.config.presets import preset
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol, merged

QUICK = preset("quick")
# Slices of three voxels' thickness.
THICK = {
    "strides": ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2)),
    "kernels": ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "max_width": 96,
}


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
    ("kernel", "width", "gigamacs"), [(5, 16, 21.0), (3, 16, 4.67), (3, 8, 1.23)]
)
def test_the_papers_networks_have_the_work_of_method_md(
    kernel: int, width: int, gigamacs: float
) -> None:
    study = merged(preset("paper"), {"network": {"kernel": kernel, "width": width}})
    # Three labelled and three unlabelled patches.
    assert footprint(study, 3).gigamacs / 6 == pytest.approx(gigamacs, abs=0.01)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_work_is_each_convolutions(architecture: str) -> None:
    network = {"architecture": architecture, "deep_supervision": True, "width": 2, **THICK}
    study = merged(QUICK, {"network": network, "patch_voxels": (32, 64, 16)})
    segmenter = build_segmenter(study)
    macs = []

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)
        # A kernel's place is a voxel of the output; of a transposed convolution one of its input.
        places = inputs[0] if isinstance(layer, nn.ConvTranspose3d) else output
        macs.append(places[0, 0].numel() * layer.weight.numel() * len(output))

    for layer in segmenter.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.register_forward_hook(count)
    segmenter.deep_logits(torch.zeros(2, 1, 32, 64, 16))  # type: ignore[operator]
    assert footprint(study, 1).gigamacs == pytest.approx(sum(macs) / 1e9, rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"network": {"architecture": "unet", "width": 16}, "patch_voxels": (64, 64, 32)},
        {
            "network": {"width": 16, "deep_supervision": True, **THICK},
            "patch_voxels": (80, 80, 12),
        },
    ],
    ids=["quick", "unet", "thick slices, deep"],
)
def test_the_estimate_is_near_what_a_step_takes(change: dict[str, object], tmp_path: Path) -> None:
    """The peak of a real step in a process of its own."""
    study: StudyProtocol = merged(QUICK, change)
    site = SiteConfig(
        site="A", data=tmp_path, cache=tmp_path, state=tmp_path, device="cpu", threads=1
    )
    taken = rehearse_training(site, study)
    assert isinstance(taken, Step), taken
    assert taken.peak_bytes is not None
    assert 0.9 < footprint(study, 2).step_bytes / taken.peak_bytes < 2.0
