"""Class maps: one channel a class, (B, C, X, Y, Z), of labels or of probabilities."""

import torch
from torch import Tensor


def one_hot_maps(label: Tensor, classes: int) -> Tensor:
    """Label map (B, 1, X, Y, Z) of integers to float maps (B, C, X, Y, Z)."""
    maps = torch.zeros(*label[:, 0].shape, classes, device=label.device)
    return maps.scatter_(-1, label[:, 0, ..., None].long(), 1.0).movedim(-1, 1)


def argmax_channels(maps: Tensor) -> Tensor:
    """The class of each voxel, (B, 1, X, Y, Z), int64; the first of equal ones.

    As `argmax`, which on a CPU takes ten times as long over an axis that is not the innermost.
    """
    return maps.detach().max(1, keepdim=True).indices


def merge_unannotated(maps: Tensor, unannotated: Tensor) -> Tensor:
    r"""Maps in which the organs that nobody annotated are one class with the background.

    m'_0 = m_0 + sum_{c in U} m_c;  m'_c = 0 for c in U;  m'_c = m_c else, U being the sample's
    unannotated organs.  Where the label is background, such a voxel may be of any of U: the
    probability of that is the sum.  Eq. 1 on merged maps and labels is the marginal Dice.

    Args:
        maps: Softmax of S or one-hot labels, (B, C, X, Y, Z); class 0 is background.
        unannotated: (B, C), boolean; True for the organs of U.

    Returns:
        Maps alike; each voxel's sum stays.  Samples without unannotated organs are
        left as they are.

    Raises:
        ValueError: If `unannotated` has another shape, or counts the background as unannotated.

    Source: Shi et al., Medical Image Analysis 70:101979, 2021 (marginal loss); the same merging in
    Fang & Yan, IEEE TMI 39(11), 2020 (target adaptive loss).
    """
    hidden = _hidden(maps, unannotated)
    unknown = (maps * hidden).sum(1, keepdim=True)
    return torch.cat((maps[:, :1] + unknown, (maps * ~hidden)[:, 1:]), dim=1)


def merge_unannotated_logits(logits: Tensor, unannotated: Tensor) -> Tensor:
    r"""Logits whose softmax is `merge_unannotated` of the logits' softmax, without its underflow.

    z'_0 = log(exp z_0 + sum_{c in U} exp z_c);  z'_c = -inf for c in U;  z'_c = z_c else.

    Args:
        logits: S's scores, (B, C, X, Y, Z).
        unannotated: (B, C), boolean; True for the organs of U.

    Raises:
        ValueError: As `merge_unannotated`.
    """
    hidden = _hidden(logits, unannotated)
    nothing = torch.full((), -torch.inf, dtype=logits.dtype, device=logits.device)
    outside = ~hidden
    outside[:, 0] = False
    union = torch.where(outside, nothing, logits).logsumexp(1, keepdim=True)
    return torch.cat((union, torch.where(hidden, nothing, logits)[:, 1:]), dim=1)


def _hidden(maps: Tensor, unannotated: Tensor) -> Tensor:
    """`unannotated` against maps, (B, C, 1, 1, 1).

    Raises:
        ValueError: If it has another shape, or names the background.
    """
    if unannotated.shape != maps.shape[:2]:
        raise ValueError(
            f"unannotated is {tuple(unannotated.shape)}, must be {tuple(maps.shape[:2])}"
        )
    if unannotated[:, 0].any():
        raise ValueError(
            "unannotated names class 0; background is what unannotated organs are merged into"
        )
    return unannotated[:, :, None, None, None]
