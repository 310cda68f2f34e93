"""Sliding-window inference over a whole volume.

`evaluation.windows: all` is the paper's form, and MONAI does the sliding; `body` leaves windows
of air out, `organs` also most of those without an organ (asdnet_models/inference/windows.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from asdnet_models.config import ModelConfig
from asdnet_models.fields import Windows
from asdnet_models.inference.windows import slide
from asdnet_models.networks.confidence import confidence_map

# On a CPU it is the faster layout for several windows in one pass, and on tensor cores too.
_LAYOUT = torch.channels_last_3d
_BACKGROUND = 0


def segment_volume(segmenter: nn.Module, image: Tensor, config: ModelConfig) -> Tensor:
    """`predict_probabilities` as the study has it: every prediction of a scan is made here."""
    return predict_probabilities(
        segmenter,
        image,
        config.patch_voxels,
        overlap=config.evaluation.overlap,
        windows=config.evaluation.windows,
    )


def trust_volume(
    confidence: nn.Module, probabilities: Tensor, image: Tensor, config: ModelConfig
) -> Tensor:
    """`predict_confidence` as the study has it."""
    return predict_confidence(
        confidence,
        probabilities,
        image,
        config.patch_voxels,
        overlap=config.evaluation.overlap,
        softmax_prior=config.confidence.prior == "softmax",
        windows=config.evaluation.windows,
    )


@torch.inference_mode()
def predict_probabilities(
    segmenter: nn.Module,
    image: Tensor,
    patch_voxels: tuple[int, int, int],
    *,
    overlap: float = 0.5,
    windows_at_once: int = 1,
    windows: Windows = "all",
) -> Tensor:
    """Softmax of the segmenter over a volume, averaged with Gaussian weights.

    Args:
        segmenter: S, on the image's device; put into evaluation mode and back.
        image: (1, 1, X, Y, Z); edges shorter than the patch are padded and un-padded.
        patch_voxels: The window, as in training.
        overlap: Fraction of a window that the next one shares, [0, 1).
        windows_at_once: Windows in one forward pass, of "all"; the others have one of their own.
        windows: Which are computed; for all but "all" the image must be normalised.

    Returns:
        (1, C, X, Y, Z) in [0, 1], classes summing to 1.
    """
    run = segmenter if windows == "all" else _in_layout(segmenter)

    def predicted(batch: Tensor) -> Tensor:
        return torch.softmax(run(batch).float(), dim=1)

    with _evaluating(segmenter):
        if windows == "all":
            return _slide(predicted, image, patch_voxels, overlap, windows_at_once)
        return _slide_some(predicted, image, patch_voxels, overlap, windows, "in_air")


@torch.inference_mode()
def predict_confidence(
    confidence: nn.Module,
    probabilities: Tensor,
    image: Tensor,
    patch_voxels: tuple[int, int, int],
    *,
    overlap: float = 0.5,
    softmax_prior: bool = False,
    windows: Windows = "all",
) -> Tensor:
    """M over a volume: where the prediction is to be trusted.

    Args:
        confidence: D, on the image's device.
        probabilities: S's over the volume, (1, C, X, Y, Z).
        image: (1, 1, X, Y, Z).
        patch_voxels: The window, as in training.
        overlap: As for `predict_probabilities`.
        softmax_prior: As in `confidence_map`.
        windows: As for `predict_probabilities`; where no window is computed M is 1, for in air
            there is nothing to be wrong about.

    Returns:
        (1, 1, X, Y, Z) in [0, 1].
    """
    run = confidence if windows == "all" else _in_layout(confidence)

    def predicted(seen: Tensor, maps: Tensor) -> Tensor:
        # D may give one logit a patch; MONAI weighs in place, which a view would refuse.
        logits = run(maps, seen).float().expand_as(seen).contiguous()
        return confidence_map(logits, maps, softmax_prior=softmax_prior)

    with _evaluating(confidence):
        if windows == "all":
            return _slide(predicted, image, patch_voxels, overlap, 1, beside=probabilities)
        background = probabilities[:, _BACKGROUND, None]
        return _slide_some(
            predicted, image, patch_voxels, overlap, windows, background, beside=probabilities
        )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _autocast(volume: Tensor) -> torch.autocast:
    return torch.autocast(volume.device.type, torch.bfloat16, enabled=volume.is_cuda)


def _in_layout(network: nn.Module) -> Callable[..., Tensor]:
    """The network with its kernels in `_LAYOUT`, which its features then follow; it is not changed.

    In a copy, because "all" keeps the layout, and so the last bits, that it has always had.
    """
    weights = {
        name: tensor.contiguous(memory_format=_LAYOUT) if tensor.dim() == 5 else tensor
        for name, tensor in network.state_dict(keep_vars=True).items()
    }

    def run(*inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(network, weights, inputs)
        return output

    return run


def _slide_some(
    network: Callable[..., Tensor],
    volume: Tensor,
    patch_voxels: tuple[int, int, int],
    overlap: float,
    windows: Windows,
    background: Tensor | Literal["in_air"],
    *,
    beside: Tensor | None = None,
) -> Tensor:
    """Windows of "body" or "organs"; channel 0 is 1 where there are none: background, or M."""
    with _autocast(volume):
        return slide(
            network,
            volume,
            patch_voxels,
            overlap=overlap,
            in_air=_BACKGROUND,
            background=background if windows == "organs" else None,
            beside=beside,
        )


def _slide(
    network: Callable[..., Tensor],
    volume: Tensor,
    patch_voxels: tuple[int, int, int],
    overlap: float,
    windows_at_once: int,
    *,
    beside: Tensor | None = None,
) -> Tensor:
    def predicted(batch: Tensor, condition: Tensor | None = None) -> Tensor:
        return network(batch) if condition is None else network(batch, condition)

    from monai.inferers import sliding_window_inference  # seconds, which training need not wait for

    with _autocast(volume):
        mean = sliding_window_inference(
            volume,
            patch_voxels,
            windows_at_once,
            predicted,
            overlap=overlap,
            mode="gaussian",
            padding_mode="constant",
            cval=float(volume.min()),
            condition=beside,  # MONAI cuts and pads it as the volume
        )
    assert isinstance(mean, Tensor)
    return mean
