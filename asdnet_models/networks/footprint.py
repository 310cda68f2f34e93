"""What training takes, from the networks' form alone: nothing is allocated, nothing is computed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from asdnet_models.config import ModelConfig
from asdnet_models.networks import empty_networks
from asdnet_models.networks.parts import DeeplySupervised

_FLOAT_BYTES = 4
# The weights, their gradients, and Adam's two moments.
_COPIES = 4
# Maps of all classes that the losses hold beside the graphs, for each head; by measurement.
_MAPS = 10
# Libraries that the first step loads; by measurement.
_BASE_BYTES = 128 * 2**20


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What the study's networks take.

    Attributes:
        parameters: Of both networks.
        step_bytes: Memory of one training step in float32, estimated; on a GPU, whose graphs are
            in bfloat16, it is less.
        gigamacs: 1e9 multiply-accumulates of the forward pass of S in one training step: of its
            convolutions, inner heads included, over the labelled and as many unlabelled patches.
            The backward pass takes about twice as many, D and norms little beside.
    """

    parameters: int
    step_bytes: int
    gigamacs: float


def footprint(config: ModelConfig, batch: int) -> Footprint:
    """Parameters, memory and work of a step on `batch` labelled and as many unlabelled patches.

    Weights and moments, what the graphs of S and D keep until the backward pass, the largest tensor
    of a graph once more for its gradient, and the losses' maps.  Everything is on the meta device,
    so that the largest network costs as little as the smallest.
    """
    segmenter, confidence = empty_networks(config)
    parameters = sum(p.numel() for net in (segmenter, confidence) for p in net.parameters())
    shape = tuple(config.patch_voxels)
    image = torch.empty((2 * batch, 1, *shape), device="meta")
    maps = torch.empty((2 * batch, config.classes, *shape), device="meta", requires_grad=True)
    heads = 1
    if isinstance(segmenter, DeeplySupervised):
        heads = len(segmenter.head_weights)
        forward: Callable[[], object] = partial(segmenter.deep_logits, image)
    else:
        forward = partial(segmenter, image)
    kept, judged = _kept(forward), _kept(lambda: confidence(maps, image))
    # Real maps and fakes of the labelled patches, and fakes of the unlabelled ones.
    sets = 1.5 if config.method.fakes_from_unlabelled else 1.0
    step_bytes = (
        _COPIES * _FLOAT_BYTES * parameters
        + sum(kept)
        + sets * sum(judged)
        + max(*kept, *judged)
        + _MAPS * heads * _FLOAT_BYTES * maps.numel()
        + _BASE_BYTES
    )
    return Footprint(
        parameters=parameters, step_bytes=int(step_bytes), gigamacs=_macs(forward) / 1e9
    )


def _macs(forward: Callable[[], object]) -> int:
    """Multiply-accumulates of a forward pass; a padded voxel counts as any other."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    flops: int = counter.get_total_flops()
    return flops // 2


def _kept(forward: Callable[[], object]) -> list[int]:
    """Bytes of each tensor that a forward pass keeps for the backward pass."""
    # The storages themselves: a number of one that is gone could be another's.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return [storage.nbytes() for storage in kept.values()]
