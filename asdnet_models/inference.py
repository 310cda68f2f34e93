"""Sliding-window inference over a whole volume (MONAI does the sliding)."""

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn


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
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=batch.is_cuda):
            logits = segmenter(batch)
        return torch.softmax(logits.float(), dim=1)

    was_training = segmenter.training
    segmenter.eval()
    try:
        probabilities = sliding_window_inference(
            image,
            patch_voxels,
            windows_at_once,
            windows,
            overlap=overlap,
            mode="gaussian",
            padding_mode="constant",
            cval=float(image.min()),
        )
    finally:
        segmenter.train(was_training)
    assert isinstance(probabilities, Tensor)
    return probabilities
