"""How well a scan is segmented where nobody has drawn it: the DSC that a confidence map expects."""

import torch
from torch import Tensor

# Of a voxel that S is sure of to the last bit nothing is left to share among the other classes.
_LEAST_REST = torch.finfo(torch.float32).tiny


def expected_dsc(probabilities: Tensor, trust: Tensor) -> Tensor:
    r"""DSC by organ that is expected of a prediction, without a label.

    With P the voxels predicted as an organ, p its probability and m the chance, by the map, that a
    voxel's predicted class is right:

        hits = sum of m over P,  misses = sum of (1 - m) p / q over the other voxels,
        DSC = 2 hits / (|P| + hits + misses)

    with q the probability of all classes but the predicted one: a voxel that is wrong is another
    class, in the proportions of S's probabilities.  Where m is
    the maximum softmax this is the Dice of the prediction and the probabilities themselves.

    Args:
        probabilities: S's, (1, C, X, Y, Z), classes summing to 1.
        trust: M, or the maximum softmax, (1, 1, X, Y, Z), in [0, 1].

    Returns:
        (C - 1,) in [0, 1], 64 bits, without the background; 0 for an organ that is predicted
        nowhere, unless the map is sure that there is none: then 1.

    Raises:
        ValueError: If the two are not of one volume.

    Source: Li et al., MICCAI 2022 (DSC from class probabilities); that M takes their place is ours.
    """
    if probabilities.shape[:1] + probabilities.shape[2:] != trust.shape[:1] + trust.shape[2:]:
        raise ValueError(
            f"expected DSC: probabilities of shape {tuple(probabilities.shape)} and a map of "
            f"{tuple(trust.shape)}; give both of one volume"
        )
    predicted = probabilities.argmax(1, keepdim=True)
    # Added up: 1 less the largest is 0 in 32 bits where the others are 1e-8, and no share of it.
    others = probabilities.scatter(1, predicted, 0.0)
    shares = others / others.sum(1, keepdim=True).clamp_min(_LEAST_REST)
    scores = []
    for organ in range(1, probabilities.shape[1]):
        here = predicted == organ
        voxels = float(here.sum())
        hits = trust[here].sum(dtype=torch.float64)
        missed = (1 - trust) * shares[:, organ, None]
        total = voxels + hits + missed.sum(dtype=torch.float64)
        scores.append(2 * hits / total if total > 0 else torch.ones_like(total))
    return torch.stack(scores)
