"""What a study without a word about stages trains: first weights and outputs, to the bit.

Digests of the networks before they had strides and kernels by stage; of U-Net since its head is
SVNet's.  Where one is meant to
change, say so under "Numerics" in CHANGELOG.md and store what the failing test prints.

Everything is drawn and computed in float64 and rounded to float32: so a digest is the same
whatever the instructions and the order of sums of a CPU.
"""

import hashlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from asdnet_models.config import ModelConfig
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter

SHAPE = (16, 16, 16)

# By architecture, kernel and norm (of D: its input): names, shapes and first weights; outputs.
DIGESTS = {
    "svnet 3 group": ("4799af769895870f", "c56d7bcfc2b8f87d"),
    "svnet 3 batch": ("0926ec0e8fe2b711", "082dae13f36b72db"),
    "svnet 5 group": ("8c448a8276822478", "341da8df5407a51f"),
    "svnet 5 batch": ("88b31f587a12bd67", "b90c2e13edb64557"),
    "vnet 3 group": ("b0346d945c7fdecb", "2a8d83b67daabf7e"),
    "vnet 3 batch": ("fb3cd3248dd41b4b", "10cdd9f3d6f7eeeb"),
    "vnet 5 group": ("cf674ec9ce6b29ba", "63ad575b3a281c11"),
    "vnet 5 batch": ("d71e66f799350876", "99e9b3bcca3d4974"),
    "unet 3 group": ("071753ff04d29776", "069840918c1565fe"),
    "unet 3 batch": ("071753ff04d29776", "3de4835e8849fabb"),
    "unet 5 group": ("6512f5133d56cb12", "52bb21d2cdd5117a"),
    "unet 5 batch": ("6512f5133d56cb12", "f6bdc7530c0cf1cc"),
    "dsresunet 3 group": ("1887577734fec6a3", "fc59eb1099946875"),
    "dsresunet 3 batch": ("1887577734fec6a3", "8fdef0955f23999e"),
    "dsresunet 5 group": ("1316c56f33f8b762", "7d1ef6c7a657bf8c"),
    "dsresunet 5 batch": ("1316c56f33f8b762", "2aabf33fa3882bba"),
    "fcn maps": ("6c68beb8fc91c4c6", "25a951c46e0567e3"),
    "fcn maps+image": ("e9530e3db74f7df5", "9ec4b80f7627b17f"),
    "cnn maps": ("884a569b7d1586a9", "0c583e2c4985e564"),
    "cnn maps+image": ("d9e67435fd904923", "0db7c9d135a26ed0"),
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def weights_digest(network: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()[:16]


def output_digest(network: nn.Module, *inputs: torch.Tensor) -> str:
    with torch.no_grad():
        logits = network(*inputs)
    return hashlib.sha256(logits.float().numpy().tobytes()).hexdigest()[:16]


def image(channels: int) -> torch.Tensor:
    return torch.rand(2, channels, *SHAPE, generator=torch.Generator().manual_seed(3)) - 0.3


def segmenter_digests(architecture: str, kernel: int, norm: str) -> tuple[str, str]:
    network = NetworkConfig.model_validate(
        {"architecture": architecture, "width": 2, "kernel": kernel, "norm": norm}
    )
    config = ModelConfig(seed=7, network=network, patch_voxels=SHAPE)
    built = build_segmenter(config)
    return weights_digest(built), output_digest(built, image(1))


def confidence_digests(architecture: str, sees: str) -> tuple[str, str]:
    confidence = ConfidenceConfig.model_validate(
        {"architecture": architecture, "width": 2, "input": sees}
    )
    config = ModelConfig(seed=7, patch_voxels=SHAPE).model_copy(update={"confidence": confidence})
    built = build_confidence(config)
    return weights_digest(built), output_digest(built, image(4), image(1))


@pytest.mark.parametrize("architecture", ["svnet", "vnet", "unet", "dsresunet"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_segmenter_without_stages_of_its_own(architecture: str, kernel: int, norm: str) -> None:
    made = segmenter_digests(architecture, kernel, norm)
    assert made == DIGESTS[f"{architecture} {kernel} {norm}"], made


@pytest.mark.parametrize("architecture", ["fcn", "cnn"])
@pytest.mark.parametrize("sees", ["maps", "maps+image"])
def test_the_confidence_network_of_such_a_study(architecture: str, sees: str) -> None:
    made = confidence_digests(architecture, sees)
    assert made == DIGESTS[f"{architecture} {sees}"], made
