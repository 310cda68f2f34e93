"""Sliding-window inference over a whole volume (MONAI does the sliding)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from asdnet_models.networks.confidence import confidence_map
from protocol.study import StudyProtocol


@torch.inference_mode()
def predict_probabilities(
    segmenter: nn.Module,
    image: Tensor,
    patch_voxels: tuple[int, int, int],
    *,
    overlap: float = 0.5,
    windows_at_once: int = 1,
) -> Tensor:
    """Softmax of the segmenter over a volume, averaged with Gaussian weights.

    Args:
        segmenter: S, on the image's device; put into evaluation mode and back.
        image: (1, 1, X, Y, Z); edges shorter than the patch are padded and un-padded.
        patch_voxels: The window, as in training.
        overlap: Fraction of a window that the next one shares, [0, 1).
        windows_at_once: Windows in one forward pass.

    Returns:
        (1, C, X, Y, Z) in [0, 1], classes summing to 1.
    """

    def windows(batch: Tensor) -> Tensor:
        return torch.softmax(segmenter(batch).float(), dim=1)

    with _evaluating(segmenter):
        return _slide(windows, image, patch_voxels, overlap, windows_at_once)


@torch.inference_mode()
def predict_confidence(
    confidence: nn.Module,
    probabilities: Tensor,
    image: Tensor,
    patch_voxels: tuple[int, int, int],
    *,
    overlap: float = 0.5,
    softmax_prior: bool = False,
) -> Tensor:
    """M over a volume: where the prediction is to be trusted.

    Args:
        confidence: D, on the image's device.
        probabilities: S's over the volume, (1, C, X, Y, Z).
        image: (1, 1, X, Y, Z).
        patch_voxels: The window, as in training.
        overlap: As for `predict_probabilities`.
        softmax_prior: As in `confidence_map`.

    Returns:
        (1, 1, X, Y, Z) in [0, 1].
    """
    classes = probabilities.shape[1]

    def windows(batch: Tensor) -> Tensor:
        maps, seen = batch[:, :classes], batch[:, classes:]
        # D may give one logit a patch; MONAI weighs in place, which a view would refuse.
        logits = confidence(maps, seen).float().expand_as(seen).contiguous()
        return confidence_map(logits, maps, softmax_prior=softmax_prior)

    with _evaluating(confidence):
        return _slide(windows, torch.cat((probabilities, image), 1), patch_voxels, overlap, 1)


def segment_volume(segmenter: nn.Module, image: Tensor, protocol: StudyProtocol) -> Tensor:
    """`predict_probabilities` as the study has it."""
    return predict_probabilities(
        segmenter, image, protocol.patch_voxels, overlap=protocol.evaluation.overlap
    )


def trust_volume(
    confidence: nn.Module, probabilities: Tensor, image: Tensor, protocol: StudyProtocol
) -> Tensor:
    """`predict_confidence` as the study has it."""
    return predict_confidence(
        confidence,
        probabilities,
        image,
        protocol.patch_voxels,
        overlap=protocol.evaluation.overlap,
        softmax_prior=protocol.confidence.prior == "softmax",
    )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def _slide(
    windows: Callable[[Tensor], Tensor],
    volume: Tensor,
    patch_voxels: tuple[int, int, int],
    overlap: float,
    windows_at_once: int,
) -> Tensor:
    with torch.autocast(volume.device.type, torch.bfloat16, enabled=volume.is_cuda):
        found = sliding_window_inference(
            volume,
            patch_voxels,
            windows_at_once,
            windows,
            overlap=overlap,
            mode="gaussian",
            padding_mode="constant",
            cval=float(volume[:, -1].min()),
        )
    assert isinstance(found, Tensor)
    return found
