"""The networks, built by name from plain numbers."""

from importlib import import_module
from typing import Any

import torch
from torch import nn

from asdnet_models.catalogue import NETWORKS
from asdnet_models.networks.confidence import ConfidenceCNN, ConfidenceFCN
from asdnet_models.networks.svnet import SVNet
from protocol.config.study import StudyProtocol


def build_segmenter(protocol: StudyProtocol) -> nn.Module:
    """S of this study: Xavier weights, zero biases, the same for the same seed."""
    build = named(NETWORKS[protocol.network.architecture].build)
    # Layers other than convolutions draw their own start: from the seed too.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(protocol.seed)
        network: nn.Module = build(protocol.network, protocol.classes)
    xavier_(network, torch.Generator().manual_seed(protocol.seed))
    return network


def named(entry: str) -> Any:
    """What "module:name" of the catalogue stands for."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


def build_confidence(protocol: StudyProtocol) -> ConfidenceFCN | ConfidenceCNN:
    """D of this study, started likewise from a stream of its own."""
    config = protocol.confidence
    sees_image = config.input == "maps+image"
    network: ConfidenceFCN | ConfidenceCNN
    if config.architecture == "cnn":
        network = ConfidenceCNN(classes=protocol.classes, width=config.width, sees_image=sees_image)
    else:
        network = ConfidenceFCN(classes=protocol.classes, width=config.width, sees_image=sees_image)
    xavier_(network, torch.Generator().manual_seed(protocol.seed + 1))
    return network


def xavier_(network: nn.Module, generator: torch.Generator) -> None:
    """Glorot-uniform weights and zero biases for every convolution, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


__all__ = [
    "ConfidenceCNN",
    "ConfidenceFCN",
    "SVNet",
    "build_confidence",
    "build_segmenter",
    "named",
    "xavier_",
]
