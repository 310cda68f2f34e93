"""The networks, built by name from plain numbers."""

import torch
from torch import nn

from asdnet_models.networks.confidence import ConfidenceFCN
from asdnet_models.networks.svnet import SVNet
from protocol.study import StudyProtocol


def build_segmenter(protocol: StudyProtocol) -> SVNet:
    """S of this study: Xavier weights, zero biases, the same for the same seed."""
    config = protocol.network
    network = SVNet(
        classes=protocol.classes,
        levels=config.levels,
        width=config.width,
        kernel=config.kernel,
        norm=config.norm,
    )
    xavier_(network, torch.Generator().manual_seed(protocol.seed))
    return network


def build_confidence(protocol: StudyProtocol) -> ConfidenceFCN:
    """D of this study, started likewise from a stream of its own."""
    network = ConfidenceFCN(classes=protocol.classes, width=protocol.confidence.width)
    xavier_(network, torch.Generator().manual_seed(protocol.seed + 1))
    return network


def xavier_(network: nn.Module, generator: torch.Generator) -> None:
    """Glorot-uniform weights and zero biases for every convolution, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


__all__ = ["ConfidenceFCN", "SVNet", "build_confidence", "build_segmenter", "xavier_"]
