"""Strides and kernels by stage and axis: what a study may ask for, and what is built of it."""

import itertools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from asdnet_models.config import ModelConfig
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter, empty_networks
from asdnet_models.networks.svnet import SVNet
from asdnet_models.stages import Stages, Triple

# Thick slices: in plane alone at first, then everywhere.
STRIDES = ((2, 2, 1), (2, 2, 2), (2, 1, 2))
KERNELS = ((3, 3, 1), (3, 3, 3), (5, 3, 3), (3, 3, 3))
FLAT = {"strides": STRIDES, "kernels": KERNELS, "width": 2, "kernel": 3}
ARCHITECTURES = ["svnet", "vnet", "unet", "dsresunet"]


def config(architecture: str = "svnet", **changes: Any) -> ModelConfig:
    network = {"architecture": architecture, **FLAT, **changes}
    return ModelConfig.model_validate(
        {"network": network, "patch_voxels": (64, 64, 64), "confidence": {"width": 2}}
    )


def refusal(**network: Any) -> str:
    with pytest.raises(ValidationError) as error:
        ModelConfig.model_validate({"network": network})
    [mistake] = error.value.errors()
    return ".".join(map(str, mistake["loc"])) + ": " + mistake["msg"]


def convolutions(network: nn.Module) -> list[nn.Conv3d | nn.ConvTranspose3d]:
    return [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]


def test_without_a_word_they_are_the_papers() -> None:
    network = NetworkConfig()
    assert network.stages == Stages(
        strides=((2, 2, 2),) * 3, kernels=((5, 5, 5),) * 4, widths=(16, 32, 64, 128)
    )
    assert network.stride == (8, 8, 8)
    assert NetworkConfig(architecture="vnet").stages.widths == (16, 32, 64, 128, 256)


def test_channels_double_up_to_the_cap() -> None:
    assert Stages.of(8, 3, ((2, 2, 2),) * 4, None, 40).widths == (8, 16, 32, 40, 40)


def test_vnet_repeats_the_last_stage() -> None:
    stages = config("vnet").network.stages
    assert stages.strides == (*STRIDES, STRIDES[-1])
    assert stages.kernels == (*KERNELS, KERNELS[-1])
    assert config("vnet").network.stride == (16, 4, 8)
    assert config("svnet").network.stride == (8, 4, 4)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            {"strides": ((2, 2, 2), (1, 1, 1))},
            "network.strides: Value error, must halve at least one axis at every down-sampling, "
            "not (2, 2, 2), (1, 1, 1); leave (1, 1, 1) out, or have it halve an axis",
        ),
        (
            {"strides": STRIDES, "kernels": KERNELS[:3]},
            "network: Value error, kernels must be 4, one a stage (3 down-samplings make 4 stages),"
            " not 3; list 4, or none",
        ),
        ({"kernels": KERNELS[:2]}, "kernels must be 4, one a stage"),
        ({"strides": STRIDES[:1], "kernels": KERNELS[:3]}, "kernels must be 2, one a stage"),
        ({"strides": ((2, 2, 3),)}, "network.strides.0.2: Input should be 1 or 2"),
        (
            {"kernels": (*KERNELS[:3], (3, 3, 4))},
            "network.kernels.3.2: Input should be 1, 3 or 5",
        ),
        ({"strides": ()}, "network.strides: Value error, must list one down-sampling at least"),
        ({"strides": ((2, 2, 2),) * 8}, "network.strides: Tuple should have at most 7 items"),
        (
            {"max_width": 8},
            "max_width must be width, 16, at least, not 8; raise it, or lower width",
        ),
        (
            {"strides": STRIDES[:1], "deep_supervision": True},
            "deep_supervision must be false where strides list one down-sampling alone",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(network: dict[str, Any], message: str) -> None:
    assert message in refusal(**network)


def test_a_patch_that_an_axis_cannot_halve_is_refused() -> None:
    with pytest.raises(
        ValidationError,
        match=r"must be multiples of 8, 4, 4 along x, y, z \(the networks halve 3, 2, 2 times\), "
        r"not \(16, 12, 6\); \(16, 12, 4\) would do",
    ):
        ModelConfig.model_validate({"network": FLAT, "patch_voxels": (16, 12, 6)})


def test_a_network_without_stages_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from asdnet_models import catalogue

    plain = catalogue.Network(build="somewhere:plain", stride=1)
    monkeypatch.setitem(catalogue.NETWORKS, "plain", plain)  # type: ignore[arg-type]
    assert NetworkConfig(architecture="plain").stages.strides == ()
    assert NetworkConfig(architecture="plain").stride == (8, 8, 8)  # D's
    assert "must be left out where architecture is plain" in refusal(
        architecture="plain", max_width=32
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_every_network_takes_its_least_patch_and_no_smaller(architecture: str, norm: str) -> None:
    study = config(architecture, norm=norm, max_width=8)
    network = build_segmenter(study)
    stride = study.network.stages.stride
    edges = (2 * stride[0], stride[1], 3 * stride[2])
    image = torch.rand(2, 1, *edges, generator=torch.Generator().manual_seed(1))
    logits = network.deep_logits(image)  # type: ignore[operator]
    assert {head.shape for head in logits} == {(2, 4, *edges)}
    sum(head.square().mean() for head in logits).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    for axis in range(3):
        odd = [*edges]
        odd[axis] += stride[axis] // 2
        with pytest.raises(RuntimeError, match="size"):
            network(torch.zeros(1, 1, *odd))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_slice_hears_no_other_before_the_stages_that_mix_them(architecture: str) -> None:
    """Kernel and stride are 1 along z everywhere: slices are segmented one by one."""
    flat = {"strides": ((2, 2, 1),) * 2, "kernels": ((3, 3, 1),) * 3}
    network = build_segmenter(config(architecture, **flat, norm="batch")).eval()
    # Norms see all slices: theirs is not the network's reach, so they are left out.
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.Identity())
    image = torch.rand(1, 1, 8, 8, 5, generator=torch.Generator().manual_seed(4))
    other = image.clone()
    other[..., 2] += 1
    changed = (network(image) != network(other)).any(1).any(0).any(0).any(0)
    assert changed.tolist() == [False, False, True, False, False]


def test_kernels_are_as_listed_and_grow_by_the_stride() -> None:
    network = build_segmenter(config("svnet"))
    assert isinstance(network, SVNet)
    shrink = [(c.kernel_size, c.stride) for d in network.down for c in convolutions(d.shrink)]
    grow = [(c.kernel_size, c.stride) for u in network.up for c in convolutions(u.grow)]
    assert shrink == [(s, s) for s in STRIDES]
    assert grow == [(s, s) for s in reversed(STRIDES)]
    bodies = [
        {c.kernel_size for c in convolutions(block.body)} for block in (network.stem, *network.down)
    ]
    assert bodies == [{kernel} for kernel in KERNELS]
    assert network.head[0].kernel_size == KERNELS[0]
    for conv in convolutions(network):
        if conv.stride == (1, 1, 1):
            assert conv.padding == tuple(edge // 2 for edge in conv.kernel_size)


@pytest.mark.parametrize(("stages", "down", "up"), [(7, [1, 2, 3, 2, 2, 2], [2, 2, 2, 2, 1, 1])])
def test_stages_beyond_v_nets_have_as_many_convolutions_as_its_last(
    stages: int, down: list[int], up: list[int]
) -> None:
    with torch.device("meta"):
        network = SVNet(classes=2, width=1, kernel=3, strides=((2, 2, 2),) * (stages - 1))
    assert [len(convolutions(block.body)) for block in network.down] == down
    assert [len(convolutions(block.body)) for block in network.up] == up


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cap_holds_in_every_encoder(architecture: str) -> None:
    strides = ((2, 2, 2),) * 4
    network, _ = empty_networks(config(architecture, strides=strides, kernels=None, max_width=8))
    assert isinstance(network.down, nn.ModuleList)
    assert max(c.out_channels for d in network.down for c in convolutions(d)) == 8


@pytest.mark.parametrize("architecture", ["fcn", "cnn"])
@pytest.mark.parametrize("strides", [STRIDES, STRIDES[:1], (*STRIDES, (1, 2, 1))])
def test_d_follows_the_first_three_down_samplings(
    architecture: str, strides: tuple[Triple, ...]
) -> None:
    kernels = (*KERNELS, (3, 3, 3))[: len(strides) + 1]
    study = config(strides=strides, kernels=kernels)
    confidence = ConfidenceConfig.model_validate({"architecture": architecture, "width": 2})
    network = build_confidence(study.model_copy(update={"confidence": confidence}))
    even = 4 if architecture == "fcn" else 3
    stem, *rest = [(c.kernel_size, c.stride) for c in convolutions(network)]
    assert stem == ((3, 3, 1), (1, 1, 1))
    followed = [
        ((even, even, 1), (2, 2, 1)),
        ((even, even, even), (2, 2, 2)),
        ((even, 3, even), (2, 1, 2)),
    ][: len(strides)]
    ups = followed[::-1] if architecture == "fcn" else []
    assert rest == [*followed, *ups, ((1, 1, 1), (1, 1, 1))]
    maps = torch.zeros(1, 4, 16, 8, 4)
    assert network(maps).shape == ((1, 1, 16, 8, 4) if architecture == "fcn" else (1, 1, 1, 1, 1))


@pytest.mark.parametrize("architecture", ["svnet", "vnet", "unet"])
@pytest.mark.parametrize("downs", [2, 3, 4])
def test_inner_heads_learn_and_forward_is_the_full_resolutions(
    architecture: str, downs: int
) -> None:
    strides = ((2, 2, 1), (2, 2, 2), (2, 2, 2), (1, 2, 2))[:downs]
    plain = config(architecture, strides=strides, kernels=None)
    deep = config(architecture, strides=strides, kernels=None, deep_supervision=True)
    network, bare = build_segmenter(deep), build_segmenter(plain)
    stages = downs + (architecture == "vnet")  # down-samplings; decoder stages
    heads = max(2, stages - 1)
    weights = [2.0**-level for level in range(heads)]
    assert network.head_weights == pytest.approx([w / sum(weights) for w in weights])
    assert bare.head_weights == (1.0,)
    # What the network without inner heads has, it has too, from the same draw.
    own, others = bare.state_dict(), network.state_dict()
    assert all(torch.equal(tensor, others[name]) for name, tensor in own.items())
    assert {name.split(".")[0] for name in others.keys() - own.keys()} == {"inner_heads"}
    edges = network_edges(deep)
    image = torch.rand(2, 1, *edges, generator=torch.Generator().manual_seed(2))
    logits = network.deep_logits(image)  # type: ignore[operator]
    assert [head.shape for head in logits] == [(2, 4, *edges)] * heads
    assert torch.equal(logits[0], network(image))
    assert torch.equal(logits[0], bare(image))
    sum(head.square().mean() for head in logits).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def network_edges(study: ModelConfig) -> tuple[int, ...]:
    # Of a single voxel a norm would leave nothing.
    return tuple(2 * edge for edge in study.network.stages.stride)


def test_an_inner_head_sees_its_resolution_alone() -> None:
    """Along an axis that is not halved yet, half resolution is full resolution."""
    study = config("svnet", deep_supervision=True)
    network = build_segmenter(study)
    image = torch.rand(1, 1, 16, 16, 8, generator=torch.Generator().manual_seed(2))
    _, inner = network.deep_logits(image)  # type: ignore[operator]
    coarse = network.inner_heads[0](network.decoded(image)[1])  # type: ignore[operator,index]
    assert coarse.shape == (1, 4, 8, 8, 8)
    for z in range(8):
        expected = nn.functional.interpolate(coarse[..., z], size=(16, 16), mode="bilinear")
        torch.testing.assert_close(inner[..., z], expected)


def test_every_pair_of_small_strides_builds() -> None:
    halvings = [s for s in itertools.product((1, 2), repeat=3) if max(s) == 2]
    for first, second in itertools.product(halvings, halvings):
        study = config(strides=(first, second), kernels=((1, 3, 3), (3, 1, 3), (3, 3, 1)))
        for network in (build_segmenter(study), build_confidence(study)):
            edges = tuple(2 * edge for edge in study.network.stride)
            channels = 1 if isinstance(network, SVNet) else 4
            assert network(torch.zeros(1, channels, *edges)).shape[2:] == edges
