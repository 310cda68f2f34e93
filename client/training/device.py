"""Device-specific training: memory layout, kernels and gradient accumulation.

Facts of a site, not of the study: on any of them a step has the same gradients to rounding.
"""

import torch
from torch import Tensor, nn

from asdnet_models.catalogue import METHODS
from asdnet_models.methods.common import Networks
from asdnet_models.networks import build_confidence, build_segmenter
from protocol.config.site import SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol

# Tensor cores want this layout, and on a CPU it spares PyTorch's slow fallback convolution.
_LAYOUT = torch.channels_last_3d


def check_accumulate(config: SiteConfig, protocol: StudyProtocol) -> None:
    """Whether this study's steps can be taken in parts at all, where the site wants it.

    Raises:
        ProtocolError: With every reason why a part's gradients would not be a share of the whole's.
    """
    if config.accumulate == 1:
        return
    reasons = []
    method = protocol.method
    if not METHODS[method.name].means_over_samples:
        reasons.append(f"{method.name} takes its steps whole")
    if method.trains_confidence and method.gamma_rule == "quantile":
        reasons.append("gamma_rule 'quantile' ranks the voxels of the whole batch")
    if protocol.network.norm == "batch":
        reasons.append("norm 'batch' takes its statistics over the whole batch")
    if reasons:
        raise ProtocolError(
            f"site {config.site}: accumulate {config.accumulate}: this study's steps cannot be "
            f"taken in parts: {'; '.join(reasons)}; set accumulate to 1"
        )


def build_networks(
    protocol: StudyProtocol,
    device: torch.device,
    *,
    trains_confidence: bool,
    compiled: bool = False,
    parts: int = 1,
) -> Networks:
    """Both networks on the device with the seed's first weights, and their optimisers.

    Args:
        protocol: Architecture and rates.
        device: Where they train.
        trains_confidence: Whether D is trained, and not only asked: so it is where labels are.
        compiled: Let torch.compile make their kernels, at the first step; weights keep their names.
        parts: In how many parts a step's batch is worked through.
    """

    def ready(network: nn.Module) -> nn.Module:
        moved: nn.Module = network.to(device).to(memory_format=_LAYOUT).train()  # type: ignore[call-overload]
        if compiled:
            moved.compile(dynamic=False)
        return moved

    def adam(network: nn.Module, rate: float) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(),
            lr=rate,
            weight_decay=protocol.training.weight_decay,
            fused=device.type == "cuda",
        )

    method = METHODS[protocol.method.name]
    segmenter = ready(build_segmenter(protocol))
    teacher = None
    if method.taught:
        # A teacher is given its weights; a second network begins elsewhere than S, or both
        # would be one.
        teacher = ready(
            build_segmenter(protocol.model_copy(update={"seed": _other(protocol.seed)}))
        )
    confidence = ready(build_confidence(protocol)) if protocol.method.trains_confidence else None
    training = protocol.training
    return Networks(
        segmenter=segmenter,
        segmenter_optimiser=adam(segmenter, training.lr_segmenter),
        confidence=confidence,
        confidence_optimiser=adam(confidence, training.lr_confidence)
        if confidence is not None and trains_confidence
        else None,
        teacher=teacher,
        teacher_optimiser=adam(teacher, training.lr_segmenter)
        if teacher is not None and method.second_network
        else None,
        learns_correctness=protocol.confidence.target == "correctness",
        softmax_prior=protocol.confidence.prior == "softmax",
        parts=parts,
        clip_norm=training.clip_norm,
    )


def _other(seed: int) -> int:
    """Another seed, which no seed near this one gives."""
    return (seed + 2**30) % 2**31


def on_device(batch: Tensor, device: torch.device) -> Tensor:
    """In the networks' layout; to a GPU by pinned memory, without waiting for the copy."""
    batch = batch.contiguous(memory_format=_LAYOUT)
    if device.type != "cuda":
        return batch
    return batch.pin_memory().to(device, non_blocking=True)
