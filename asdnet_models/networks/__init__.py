"""Builds and initialises the networks, by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from asdnet_models.catalogue import NETWORKS, imported
from asdnet_models.config import ModelConfig
from asdnet_models.networks.confidence import ConfidenceCNN, ConfidenceFCN, ConfidenceNetwork


def build_segmenter(config: ModelConfig) -> nn.Module:
    """S of this study: Xavier weights, zero biases, the same for the same seed.

    Raises:
        ValueError: If the network keeps statistics of its inputs beside its weights.
    """
    # Layers other than convolutions draw their own start: from the seed too.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = _segmenter(config)
    _refuse_statistics(config.network.architecture, network)
    xavier_(network, torch.Generator().manual_seed(config.seed))
    return network


def build_confidence(config: ModelConfig) -> ConfidenceNetwork:
    """D of this study, initialised in the same way from a random stream of its own."""
    network = _confidence(config)
    xavier_(network, torch.Generator().manual_seed(config.seed + 1))
    return network


def empty_networks(config: ModelConfig) -> tuple[nn.Module, ConfidenceNetwork]:
    """S and D on the meta device: their form without a value, and so without memory."""
    with torch.device("meta"):
        return _segmenter(config), _confidence(config)


def _segmenter(config: ModelConfig) -> nn.Module:
    network_class = imported(NETWORKS[config.network.architecture].build)
    chosen = config.network
    options: dict[str, Any] = {"width": chosen.width, "kernel": chosen.kernel, "norm": chosen.norm}
    if NETWORKS[chosen.architecture].repeats is not None:
        stages = chosen.stages
        options |= {
            "strides": stages.strides,
            "kernels": stages.kernels,
            "max_width": chosen.max_width,
            "deep_supervision": chosen.deep_supervision,
        }
    network: nn.Module = network_class(classes=config.classes, **options)
    return network


def _confidence(config: ModelConfig) -> ConfidenceNetwork:
    network_class = ConfidenceCNN if config.confidence.architecture == "cnn" else ConfidenceFCN
    return network_class(
        classes=config.classes,
        width=config.confidence.width,
        sees_image=config.confidence.input == "maps+image",
        strides=config.network.confidence_strides,
        kernels=config.network.confidence_kernels,
    )


def _refuse_statistics(name: str, network: nn.Module) -> None:
    """Statistics of what a network has seen would leave a site with its weights."""
    kept = [key for key, buffer in network.named_buffers() if buffer.is_floating_point()]
    if kept:
        raise ValueError(
            f"network {name}: {kept[0]} is no weight but a statistic of the scans, and would leave "
            "a site with the weights; use asdnet_models.networks.parts.normalisation, or "
            "track_running_stats=False"
        )


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Into the network in place; counters, which are no floating tensors, keep their values.

    Raises:
        RuntimeError: If a floating tensor of the network is missing, has another shape, or is none
            of the network's.
    """
    state = network.state_dict()
    counters = {name: t for name, t in state.items() if not t.is_floating_point()}
    network.load_state_dict({**counters, **weights}, strict=True)


def xavier_(network: nn.Module, generator: torch.Generator) -> None:
    """Glorot-uniform weights and zero biases for every convolution, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
