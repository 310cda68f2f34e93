"""The networks against published counts, and how they start."""

import pytest
import torch
from monai.networks.nets import VNet as MonaiVNet
from torch import nn

from asdnet_models.catalogue import NETWORKS
from asdnet_models.config import ModelConfig
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter, xavier_
from asdnet_models.networks.confidence import ConfidenceCNN, ConfidenceFCN
from asdnet_models.networks.dsresunet import DSResUNet
from asdnet_models.networks.parts import BatchNorm
from asdnet_models.networks.svnet import SVNet, VNet
from asdnet_models.networks.unet import UNet
from protocol.config.study import StudyProtocol

TINY = StudyProtocol(
    patch_voxels=(16, 16, 16),
    network=NetworkConfig(width=4, kernel=3),
    confidence=ConfidenceConfig(width=4),
)


def build_unet(protocol: StudyProtocol) -> nn.Module:
    return build_segmenter(with_network(protocol, "unet"))


def build_dsresunet(protocol: StudyProtocol) -> nn.Module:
    return build_segmenter(with_network(protocol, "dsresunet"))


def build_cnn(protocol: StudyProtocol) -> nn.Module:
    confidence = protocol.confidence.model_copy(update={"architecture": "cnn"})
    return build_confidence(protocol.model_copy(update={"confidence": confidence}))


def with_network(protocol: StudyProtocol, architecture: str) -> StudyProtocol:
    network = protocol.network.model_copy(update={"architecture": architecture})
    return protocol.model_copy(update={"network": network})


BUILDERS = [build_segmenter, build_confidence, build_unet, build_dsresunet, build_cnn]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_vnet_has_the_parameters_of_monais() -> None:
    with torch.device("meta"):
        ours = VNet(classes=4, width=16, kernel=5, norm="batch")
        theirs = MonaiVNet(in_channels=1, out_channels=4)
    assert parameters(ours) == parameters(theirs) == 45_605_916


def test_group_norm_costs_only_the_norm_of_the_head() -> None:
    with torch.device("meta"):
        group = VNet(classes=4, width=16, kernel=5)
    assert parameters(group) == 45_605_916 - 2 * 4


@pytest.mark.parametrize(
    ("width", "kernel", "millions", "within"),
    [(16, 5, 12.25, 0.005), (16, 3, 2.8, 0.05), (8, 3, 0.7, 0.05)],
)
def test_svnet_has_the_published_size(
    width: int, kernel: int, millions: float, within: float
) -> None:
    with torch.device("meta"):
        network = SVNet(classes=4, width=width, kernel=kernel)
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=within)


def test_unet_has_the_published_parameters() -> None:
    # Cicek et al. 2016: 19,069,955 with three classes and three image channels (we have one), and
    # one value where each of the 2,336 normalised channels has a weight and a bias here, and a 1^3
    # head where ours is 3^3.
    with torch.device("meta"):
        network = UNet(classes=3, width=64, kernel=3)
    channels = 32 + 64 + 64 + 128 + 128 + 256 + 256 + 512 + 2 * (256 + 128 + 64)
    assert channels == 2336
    ours, theirs = 27 * 64 * 3 + 3, 64 * 3 + 3
    assert parameters(network) - channels + 2 * 27 * 32 - ours + theirs == 19_069_955


@pytest.mark.parametrize("kernel", [3, 5])
def test_dsresunet_by_arithmetic(kernel: int) -> None:
    w, n = 2, kernel**3
    expected = n * w + n * 2 * w * w + n * 8 * w * w + n * 32 * w * w  # into each level
    expected += 2 * n * (w * w + 4 * w * w + 16 * w * w) * 2 + 2 * n * 64 * w * w  # blocks
    expected += 8 * (2 * w * w + 8 * w * w + 32 * w * w)  # transposed convolutions
    expected += 2 * (3 + 1 + 2) * (w + 2 * w + 4 * w) + 2 * 3 * 8 * w  # norms
    expected += 3 * (w + 2 * w + 4 * w) + 3 * 3  # three heads of three classes
    assert parameters(DSResUNet(classes=3, width=w, kernel=kernel)) == expected


def test_the_patch_confidence_network_by_arithmetic() -> None:
    # stem and three down, all 3^3, 1^3 head; weights and biases.
    expected = (2 * 27 + 1) * 2 + (2 * 27 + 1) * 4 + (4 * 27 + 1) * 8 + (8 * 27 + 1) * 16 + 16 + 1
    assert parameters(ConfidenceCNN(classes=2, width=2)) == expected


def test_the_confidence_network_by_arithmetic() -> None:
    # stem 3^3, three 4^3 down, three 4^3 up, 1^3 head; weights and biases.
    expected = (2 * 27 + 1) * 2 + (2 * 64 + 1) * 4 + (4 * 64 + 1) * 8 + (8 * 64 + 1) * 16
    expected += (16 * 64 + 0) * 8 + 8 + (8 * 64 + 0) * 4 + 4 + (4 * 64 + 0) * 2 + 2 + (2 + 1)
    assert parameters(ConfidenceFCN(classes=2, width=2)) == expected


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("svnet", (16, 8, 24)),
        ("vnet", (16, 32, 16)),
        ("unet", (16, 8, 24)),
        ("dsresunet", (24, 16, 8)),
    ],
)
def test_segmenter_gives_logits_at_full_resolution(
    architecture: str, shape: tuple[int, int, int]
) -> None:
    protocol = StudyProtocol(
        patch_voxels=(32, 32, 16),
        network=NetworkConfig.model_validate(
            {"architecture": architecture, "width": 2, "kernel": 3}
        ),
    )
    logits = build_segmenter(protocol)(torch.zeros(2, 1, *shape))
    assert logits.shape == (2, 4, *shape)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_the_catalogues_stride_is_the_least_that_works(architecture: str) -> None:
    network = build_segmenter(with_network(TINY, architecture))
    stride = NETWORKS[architecture].stride
    assert stride == (16 if architecture == "vnet" else 8)
    edges = (stride, 2 * stride, stride)
    assert network(torch.zeros(1, 1, *edges)).shape == (1, 4, *edges)
    with pytest.raises(RuntimeError, match="size"):
        network(torch.zeros(1, 1, stride, 2 * stride, stride + stride // 2))


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("network", [UNet, DSResUNet])
def test_width_one_and_both_norms(network: type[UNet] | type[DSResUNet], norm: str) -> None:
    made = network(classes=2, width=1, kernel=3, norm="batch" if norm == "batch" else "group")
    assert made(torch.zeros(2, 1, 8, 8, 16)).shape == (2, 2, 8, 8, 16)
    kinds = {type(m) for m in made.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm3d)}
    assert kinds == {BatchNorm if norm == "batch" else nn.GroupNorm}


def test_a_gradient_reaches_every_parameter_of_unet() -> None:
    network = build_unet(TINY)
    image = torch.randn(2, 1, 16, 8, 24, generator=torch.Generator().manual_seed(2))
    network(image).square().mean().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_vnet_is_svnet_with_one_stage_more() -> None:
    svnet = SVNet(classes=4, width=2, kernel=3)
    vnet = VNet(classes=4, width=2, kernel=3)
    assert (len(svnet.down), len(vnet.down)) == (3, 4)
    x = torch.zeros(1, 1, 8, 8, 8)
    assert svnet(x).shape == (1, 4, 8, 8, 8)
    with pytest.raises(RuntimeError, match="size"):
        vnet(x)  # 8 voxels cannot be halved four times


@pytest.mark.parametrize("levels", [1, 9])
def test_other_depths_are_refused(levels: int) -> None:
    with pytest.raises(ValueError, match=f"levels must be 2 to 8, not {levels}"):
        SVNet(classes=2, levels=levels, width=2, kernel=3)


def test_confidence_gives_one_logit_a_voxel() -> None:
    network = ConfidenceFCN(classes=3, width=2)
    assert network(torch.zeros(2, 3, 16, 8, 24)).shape == (2, 1, 16, 8, 24)


def test_the_patch_confidence_is_one_logit_a_patch_that_hears_every_voxel() -> None:
    network = build_cnn(TINY)
    assert isinstance(network, ConfidenceCNN)
    maps = torch.rand(2, 4, 16, 8, 24, generator=torch.Generator().manual_seed(2))
    maps.requires_grad_(True)
    logits = network(maps)
    assert logits.shape == (2, 1, 1, 1, 1)
    logits[0].sum().backward()
    assert maps.grad is not None
    assert torch.count_nonzero(maps.grad[0].abs().sum(0)) == 16 * 8 * 24
    assert torch.count_nonzero(maps.grad[1]) == 0


def test_the_patch_confidence_may_see_the_scan() -> None:
    network = ConfidenceCNN(classes=3, width=2, sees_image=True)
    maps, dark = torch.full((1, 3, 8, 8, 8), 1 / 3), torch.zeros(1, 1, 8, 8, 8)
    assert network(maps, dark) != network(maps, dark + 1)
    with pytest.raises(ValueError, match="needs the image with the maps; none was given"):
        network(maps)


def test_layers_other_than_convolutions_follow_the_seed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asdnet_models.networks as networks

    monkeypatch.setattr(networks, "imported", lambda _: lambda **_: nn.Linear(3, 3))
    torch.manual_seed(1)
    first, drawn = build_segmenter(TINY), torch.rand(1)
    torch.manual_seed(2)
    again = build_segmenter(TINY)
    other = build_segmenter(TINY.model_copy(update={"seed": TINY.seed + 7}))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))  # nobody else's stream has moved


@pytest.mark.parametrize("build", BUILDERS)
def test_the_start_follows_the_seed_of_the_study_alone(build: object) -> None:
    assert callable(build)
    torch.manual_seed(1)
    first = build(TINY).state_dict()
    torch.manual_seed(2)
    again = build(TINY).state_dict()
    other = build(TINY.model_copy(update={"seed": TINY.seed + 7})).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    convolutions = [name for name in first if first[name].ndim == 5]
    assert convolutions
    assert not any(torch.equal(first[name], other[name]) for name in convolutions)


@pytest.mark.parametrize("build", BUILDERS)
def test_biases_are_zero_and_weights_within_glorots_bound(build: object) -> None:
    assert callable(build)
    seen = 0
    for module in build(TINY).modules():
        if not isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            continue
        seen += 1
        weight = module.weight
        # Glorot & Bengio 2010: the variance of a uniform start is 2 / (fan in + fan out).
        bound = (6 / (weight[0, 0].numel() * (weight.shape[0] + weight.shape[1]))) ** 0.5
        assert 0.5 * bound < weight.abs().max() <= bound
        if module.bias is not None:
            assert torch.count_nonzero(module.bias) == 0
    assert seen >= (5 if build is build_cnn else 8)


def test_xavier_reaches_transposed_convolutions_and_their_biases() -> None:
    layer = nn.ConvTranspose3d(2, 2, 2)
    nn.init.constant_(layer.weight, 7.0)
    nn.init.constant_(layer.bias, 7.0)
    xavier_(nn.Sequential(layer), torch.Generator().manual_seed(0))
    assert layer.weight.abs().max() < 1
    assert layer.bias.tolist() == [0, 0]


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_no_network_keeps_statistics_of_what_it_has_seen(name: str, norm: str) -> None:
    config = ModelConfig.model_validate(
        {"network": {"architecture": name, "width": 1, "kernel": 3, "norm": norm}}
    )
    network = build_segmenter(config)
    before = set(network.state_dict())
    network(torch.rand(2, 1, 32, 32, 32))
    assert set(network.state_dict()) == before == {key for key, _ in network.named_parameters()}


def test_a_network_that_keeps_statistics_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_statistics(classes: int, **_: object) -> nn.Module:
        return nn.Sequential(nn.Conv3d(1, classes, 1), nn.BatchNorm3d(classes))

    monkeypatch.setattr("asdnet_models.networks.imported", lambda _: with_statistics)
    with pytest.raises(ValueError, match=r"1\.running_mean is no weight but a statistic"):
        build_segmenter(TINY)


def test_batch_norm_learns_from_the_batch_and_predicts_each_sample_by_itself() -> None:
    ours, published = BatchNorm(3), nn.BatchNorm3d(3)
    features = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(ours(features), published(features))
    ours.eval()
    both = ours(features)
    torch.testing.assert_close(both, torch.cat([ours(features[:1]), ours(features[1:])]))
    torch.testing.assert_close(both.mean((2, 3, 4)), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_group_norm_keeps_the_samples_of_a_batch_apart() -> None:
    network = build_segmenter(TINY)
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(5))
    alone = network(image[:1])
    image[1] *= 100
    torch.testing.assert_close(network(image)[:1], alone, atol=1e-4, rtol=1e-4)
