"""What a step takes: memory and multiplications, from the networks' form alone."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from asdnet_models.networks import empty_networks
from asdnet_models.networks.footprint import footprint
from protocol.config.study import StudyProtocol

GIB = 2**30
# Of the memory, by `footprint`: weights, gradients and two moments of Adam; and libraries.
OF_A_WEIGHT, BASE_BYTES = 16, 128 * 2**20
# A training step of a network: forward, and twice as much backward.
_PASSES = 3
# D judges S's maps and learns from real ones and fakes.
_JUDGED = 2


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one training step takes.

    Attributes:
        bytes: Memory, by `footprint`.
        gigamacs: Multiply-accumulates, 10^9.
        scan_gigamacs: The same, of predicting one patch.
        parameters: Of both networks.
    """

    bytes: int
    gigamacs: float
    scan_gigamacs: float
    parameters: int


def step_cost(protocol: StudyProtocol, *, unlabelled: bool = True) -> Cost:
    """Of a study's step; nothing is allocated.

    Args:
        protocol: The study.
        unlabelled: Whether a step also has unlabelled patches.
    """
    batch = protocol.training.batch_size
    memory = footprint(protocol, batch)
    segmenter, confidence = empty_networks(protocol)
    edges = protocol.patch_voxels
    image = torch.empty((1, 1, *edges), device="meta")
    maps = torch.empty((1, protocol.classes, *edges), device="meta")
    with FlopCounterMode(display=False) as of_segmenter:
        segmenter(image)
    of_step = of_segmenter.get_total_flops()
    if protocol.method.trains_confidence:
        with FlopCounterMode(display=False) as of_confidence:
            confidence(maps, image)
        of_step += _JUDGED * of_confidence.get_total_flops()
    patches = batch * (2 if unlabelled else 1)
    return Cost(
        bytes=memory.step_bytes,
        gigamacs=_PASSES * patches * of_step / 2e9,
        scan_gigamacs=of_segmenter.get_total_flops() / 2e9,
        parameters=memory.parameters,
    )
