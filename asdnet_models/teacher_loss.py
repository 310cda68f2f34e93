"""The loss of labels that are believed by voxel: a teacher's, or a reader's in part of a patch."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from asdnet_models.class_maps import one_hot_maps
from asdnet_models.losses import LEAST_COVERAGE, ClassWeight, generalised_dice


def believed_loss(
    logits: Tensor, label: Tensor, belief: Tensor, class_weight: ClassWeight, *, entropy: bool
) -> Tensor:
    """The loss of `dice_and_loss`."""
    return dice_and_loss(logits, label, belief, class_weight, entropy=entropy)[1]


def dice_and_loss(
    logits: Tensor, label: Tensor, belief: Tensor, class_weight: ClassWeight, *, entropy: bool
) -> tuple[Tensor, Tensor]:
    """Generalised Dice of the voxels that are believed, and it or its mean with cross-entropy.

    Args:
        logits: S's scores, (B, C, X, Y, Z); -inf where a sample cannot have a class.
        label: Class numbers, (B, 1, X, Y, Z), integers under C; never back-propagated.
        belief: What each voxel weighs, alike, in [0, 1], or boolean.
        class_weight: The power of the believed label's volume in pi_c of Eq. 1.
        entropy: Whether the cross-entropy is in it.

    Returns:
        Both (B,); a differentiable 0 of a sample of which under 1 % is believed.

    Raises:
        ValueError: If batch or spatial shapes differ.
    """
    expected = (logits.shape[0], 1, *logits.shape[2:])
    if label.shape != expected or belief.shape != expected:
        raise ValueError(
            f"label is {tuple(label.shape)}, belief {tuple(belief.shape)}; both must be {expected}"
        )
    logits, belief = logits.float(), belief.float()
    target = one_hot_maps(label, logits.shape[1])
    dice = losses = generalised_dice(torch.softmax(logits, 1), target, class_weight, belief)
    if entropy:
        voxels = cross_entropy(logits, label[:, 0].long(), reduction="none")
        believed = belief.flatten(1)
        total = (voxels.flatten(1) * believed).sum(1) / believed.sum(1).clamp_min(1)
        losses = (dice + total) / 2
    enough = belief.flatten(1).mean(1) >= LEAST_COVERAGE
    return dice * enough, losses * enough
