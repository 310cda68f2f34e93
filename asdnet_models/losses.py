"""Losses: Eq. 1 to 7 of ASDNet (Nie et al., MICCAI 2018) and an embedding loss for comparison.

Tensors are (B, C, X, Y, Z) as in MONAI; class 0 is background.  Everything is computed in
float32 also under autocast: sums over 65,536 voxels do not fit bfloat16's eight bits.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    normalize,
)

from asdnet_models.class_maps import argmax_channels, one_hot_maps

ClassWeight = Literal["inverse-square", "inverse", "uniform"]

_POWER: dict[ClassWeight, float] = {"inverse-square": 2.0, "inverse": 1.0}
_EPSILON = 1e-5
# A one-voxel organ at a patch's rim must not swamp Eq. 1: weights see at least this volume.
_FLOOR_VOXELS = 64
# Under this share of trusted voxels a region is noise, not evidence.
LEAST_COVERAGE = 0.01


def _check_maps(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"maps differ in shape: {tuple(a.shape)} against {tuple(b.shape)}")


def class_weights(probabilities: Tensor, target: Tensor, kind: ClassWeight) -> Tensor:
    """pi_c of Eq. 1 for each sample, (B, C); 0 for a class absent from the target.

    Volumes are fractions of the patch, floored at 64 voxels, so that the result does not depend
    on the patch's size and epsilon stays small.  "uniform" weighs by 1 / (P_c + P_hat_c),
    which makes Eq. 1 the plain mean of the present classes' soft Dice; a constant pi_c would leave
    the sums to the background, and S stays there (measured: DSC 0 after 40 steps).
    """
    voxels = target[0, 0].numel()
    volume = target.flatten(2).sum(-1)
    floored = volume.clamp_min(min(_FLOOR_VOXELS, voxels)) / voxels
    if kind == "uniform":
        total = (probabilities + target).flatten(2).sum(-1) / voxels
        weight = 1.0 / total.clamp_min(_EPSILON)
    else:
        weight = floored.pow(-_POWER[kind])
    return torch.where(volume > 0, weight, torch.zeros_like(weight))


def generalised_dice(
    probabilities: Tensor, target: Tensor, kind: ClassWeight, mask: Tensor | None = None
) -> Tensor:
    """1 - generalised Dice of each sample, (B,).

    Args:
        probabilities: (B, C, X, Y, Z).
        target: One-hot, alike.
        kind: The power of the organ's volume in pi_c.
        mask: What each voxel counts, (B, 1, X, Y, Z), in [0, 1]; None: all 1.
    """
    _check_maps(probabilities, target)
    probabilities, target = probabilities.float(), target.float()
    common = probabilities * target
    if mask is not None:
        probabilities, target, common = probabilities * mask, target * mask, common * mask
    weight = class_weights(probabilities, target, kind)
    voxels = target[0, 0].numel()
    overlap = common.flatten(2).sum(-1) / voxels
    total = (probabilities + target).flatten(2).sum(-1) / voxels
    return 1.0 - (2.0 * (weight * overlap).sum(1) + _EPSILON) / ((weight * total).sum(1) + _EPSILON)


def dice_loss(
    probabilities: Tensor, target: Tensor, class_weight: ClassWeight = "inverse-square"
) -> Tensor:
    """Generalised multi-class Dice, one value a sample (Eq. 1).

    Args:
        probabilities: Softmax of S, (B, C, X, Y, Z), in [0, 1].
        target: One-hot reference, same shape.
        class_weight: The power of the organ's volume in pi_c.

    Returns:
        (B,), each in [0, 1]; 0 for a perfect patch, a background-only one included.

    Raises:
        ValueError: If the shapes differ.

    Source: Nie et al. 2018, Eq. 1, after Sudre et al., DLMIA 2017.
    """
    return generalised_dice(probabilities, target, class_weight)


def cross_entropy_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of each sample, the mean over its voxels of -log p(label).

    Beside Eq. 1: its gradient does not fade where a class's overlap is still zero.

    Args:
        logits: S's scores, (B, C, X, Y, Z); -inf where a sample cannot have a class.
        label: Class numbers, (B, 1, X, Y, Z), integers under C.

    Returns:
        (B,), at least 0; ln C for scores that say nothing.

    Raises:
        ValueError: If batch or spatial shapes differ.

    Source: with Dice in Isensee et al., Nature Methods 2021 (nnU-Net).
    """
    expected = (logits.shape[0], 1, *logits.shape[2:])
    if label.shape != expected:
        raise ValueError(f"label is {tuple(label.shape)}, must be {expected}")
    voxels = cross_entropy(logits.float(), label[:, 0].long(), reduction="none")
    return voxels.flatten(1).mean(1)


def sample_attention(probabilities: Tensor, target: Tensor, beta: float) -> Tensor:
    """(1 - dsc)^beta of each sample: hard patches weigh more (Eq. 2).

    dsc is the mean hard Dice over the organs present in the sample; where there is none, the
    soft Dice of the background.  Never back-propagated.

    Returns:
        (B,), each in [0, 1].
    """
    _check_maps(probabilities, target)
    with torch.no_grad():
        probabilities, target = probabilities.float(), target.float()
        hard = one_hot_maps(argmax_channels(probabilities), probabilities.shape[1])
        volume = target.flatten(2).sum(-1)[:, 1:]
        overlap = (hard * target).flatten(2).sum(-1)[:, 1:]
        dice = 2 * overlap / (hard.flatten(2).sum(-1)[:, 1:] + volume).clamp_min(1)
        present = volume > 0
        mean = (dice * present).sum(1) / present.sum(1).clamp_min(1)
        soft, reference = probabilities[:, 0].flatten(1), target[:, 0].flatten(1)
        background = 2 * (soft * reference).sum(1) / (soft + reference).sum(1).clamp_min(_EPSILON)
        dsc = torch.where(present.any(1), mean, background)
        return (1.0 - dsc).clamp(0, 1).pow(beta)


def confidence_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """D's loss: readers' maps are real, S's maps are fake (Eq. 3 and 4).

    Args:
        real_logits: D of reference maps, (B, 1, X, Y, Z).
        fake_logits: D of S's **detached** maps.

    Returns:
        Scalar; the sum of two means over voxels, 2 ln 2 for a D that knows nothing.
    """
    real_logits, fake_logits = real_logits.float(), fake_logits.float()
    return binary_cross_entropy_with_logits(
        real_logits, torch.ones_like(real_logits)
    ) + binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))


def adversarial_loss(logits: Tensor) -> Tensor:
    """S's reward for maps that D takes for real (Eq. 5); mean over voxels.

    Args:
        logits: D of S's maps of labelled and unlabelled patches, (B, 1, X, Y, Z).
    """
    logits = logits.float()
    return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def correctness_loss(
    logits: Tensor, probabilities: Tensor, label: Tensor, *, predicted: Tensor | None = None
) -> Tensor:
    """D's loss where it learns to say where S is right, instead of Eq. 3 and 4.

    Args:
        logits: D of S's **detached** maps, (B, 1, X, Y, Z).
        probabilities: These maps, (B, C, X, Y, Z).
        label: Reference class numbers, (B, 1, X, Y, Z), integer.
        predicted: `argmax_channels` of the maps, where it is known already.

    Returns:
        Scalar; mean over voxels of the cross-entropy against "the arg-max is the label".
    """
    predicted = argmax_channels(probabilities) if predicted is None else predicted
    right = (predicted == label).float()
    return binary_cross_entropy_with_logits(logits.float(), right)


def trusted_voxels(confidence: Tensor, threshold: float | Tensor) -> Tensor:
    """The region of Eq. 6, (B, 1, X, Y, Z), boolean: confidence over the threshold."""
    return confidence > threshold


@torch.no_grad()
def rank_thresholds(confidence: Tensor, pseudo_label: Tensor, share: float) -> Tensor:
    """gamma by rank: over it lies the `share` of each class's voxels that D trusts most.

    Args:
        confidence: M, (B, 1, X, Y, Z).
        pseudo_label: Predicted class numbers, alike, integer.
        share: In (0, 1], over the whole batch; of voxels with equal confidence all are over it.

    Returns:
        A threshold for every voxel, alike.
    """
    thresholds = torch.zeros_like(confidence)
    for value in pseudo_label.unique().tolist():  # type: ignore[no-untyped-call]
        mine = pseudo_label == value
        values = confidence[mine]
        trusted = max(1, round(share * values.numel()))
        least = values.kthvalue(values.numel() - trusted + 1).values
        thresholds[mine] = torch.nextafter(least, least - 1)
    return thresholds


def region_attention_loss(
    probabilities: Tensor,
    confidence: Tensor,
    threshold: float | Tensor,
    class_weight: ClassWeight = "inverse-square",
    *,
    predicted: Tensor | None = None,
) -> Tensor:
    """Generalised Dice against the network's own labels where they are trusted (Eq. 6).

    Args:
        probabilities: Softmax of S, (B, C, X, Y, Z), in [0, 1].
        confidence: Sigmoid of D, (B, 1, X, Y, Z); never back-propagated.
        threshold: gamma in [0, 1), or one for each voxel; trusted is confidence > gamma.
        class_weight: The power of the trusted pseudo-label's volume in pi_c.
        predicted: `argmax_channels` of the probabilities, where it is known already.

    Returns:
        Scalar in [0, 1], the mean over samples; a sample with nothing trusted (under 1 % of its
        voxels, or no organ voxel left) counts as a differentiable 0.

    Raises:
        ValueError: If batch or spatial shapes differ.

    Source: Nie et al. 2018, Eq. 6; threshold after Hung et al., BMVC 2018.
    """
    expected = (probabilities.shape[0], 1, *probabilities.shape[2:])
    if confidence.shape != expected:
        raise ValueError(f"confidence is {tuple(confidence.shape)}, must be {expected}")
    with torch.no_grad():
        mask = trusted_voxels(confidence, threshold).float()
        predicted = argmax_channels(probabilities) if predicted is None else predicted
        pseudo = one_hot_maps(predicted, probabilities.shape[1])
        organ_left = (pseudo[:, 1:] * mask).flatten(1).sum(1) > 0
        usable = organ_left & (mask.flatten(1).mean(1) >= LEAST_COVERAGE)
    losses = generalised_dice(probabilities, pseudo, class_weight, mask)
    # Multiplying by zero, not indexing, keeps the graph connected where nothing is trusted.
    return (losses * usable).mean()


def total_loss(
    supervised: Tensor,
    adversarial: Tensor,
    region: Tensor,
    lambda_adversarial: float,
    lambda_region: float,
) -> Tensor:
    """L_S = L_AttDice + lambda_1 L_ADV + lambda_2 L_semi (Eq. 7)."""
    return supervised + lambda_adversarial * adversarial + lambda_region * region


def embedding_loss(features: Tensor, classes: Tensor, margin: float) -> Tensor:
    r"""Features of one class are pulled together, of two classes pushed a margin apart.

    Mean over all pairs of d^2 where the classes are the same and max(0, margin - d)^2 where they
    differ; d = 1 - cos is the cosine distance, in [0, 2], which unlike the Euclidean one cannot be
    satisfied by scaling the features.

    Args:
        features: (N, F).
        classes: (N,), integers.
        margin: Distance at which two classes are far enough apart, over 0.

    Returns:
        Scalar in [0, max(4, margin^2)]; a differentiable 0 of fewer than two points.

    Raises:
        ValueError: If there is not one class for each point.

    Source: Baur et al., MICCAI 2017 (cosine distance); contrastive form of Hadsell et al., CVPR
    2006.
    """
    if classes.shape != features.shape[:1]:
        raise ValueError(f"{len(features)} points need as many classes, not {tuple(classes.shape)}")
    unit = normalize(features.float(), dim=1)
    first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    if not len(first):
        return unit.sum() * 0.0
    distance = (1.0 - unit @ unit.T)[first, second]
    same = classes[first] == classes[second]
    apart = (margin - distance).clamp_min(0)
    return torch.where(same, distance, apart).square().mean()
