"""How a map of trust does: against correctness, and the DSC that it expects, with labels or not."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asdnet_models.expected_dice import expected_dsc
from asdnet_models.metrics import OrganScore
from asdnet_models.reliability import BINS, LOWEST, STEP, Reliability, TrustScore
from client.data.cache import CachedCase
from protocol.wire.reports import ExpectedSums
from protocol.wire.small_groups import expected_beside, expected_of_scans, score_sums

# Of one case, by map and organ.
Expected = Mapping[TrustScore, Mapping[str, float]]


def organ_reliability(
    score: Tensor, probabilities: Tensor, case: CachedCase, channels: Mapping[str, int]
) -> dict[str, Reliability]:
    """Right and wrong voxels of what was predicted as each organ, by bin of the score's log-odds.

    Args:
        score: (1, 1, X, Y, Z), in [0, 1].
        probabilities: S's, (1, C, X, Y, Z).
        case: Whose label is the truth.
        channels: Of organs that are annotated in the case.  Whether a voxel that was predicted as
            another one is right, nobody knows, and it is not counted.
    """
    assert case.label is not None
    predicted = probabilities.argmax(1)[0].cpu().numpy()
    log_odds = torch.logit(score[0, 0].double(), eps=1e-6).cpu().numpy()
    number = np.clip(np.floor((log_odds - LOWEST) / STEP), 0, BINS - 1).astype(int)
    right = predicted == np.asarray(case.label)

    def counts(voxels: NDArray[np.bool_]) -> tuple[int, ...]:
        return tuple(np.bincount(number[voxels], minlength=BINS).tolist())

    return {
        organ: Reliability(
            right=counts((predicted == channel) & right),
            wrong=counts((predicted == channel) & ~right),
        )
        for organ, channel in channels.items()
    }


def expected_scores(
    probabilities: Tensor, maps: Mapping[TrustScore, Tensor], organs: Sequence[str]
) -> Expected:
    """What each map expects of each organ's DSC in one case, before any component is dropped.

    Args:
        probabilities: S's, (1, C, X, Y, Z).
        maps: By name, (1, 1, X, Y, Z).
        organs: In the order of the channels.
    """
    return {
        score: dict(zip(organs, expected_dsc(probabilities, trust).tolist(), strict=True))
        for score, trust in maps.items()
    }


def sums_beside(
    blocks: Mapping[str, Sequence[Sequence[CachedCase]]],
    expected: Mapping[str, Expected],
    scores: Mapping[str, Mapping[str, OrganScore]],
    fewest: int,
) -> dict[TrustScore, dict[str, ExpectedSums]]:
    """What may leave beside the true DSC.

    Args:
        blocks: By organ, cases that may leave, block by block.
        expected: By cache key.
        scores: Likewise.
        fewest: Cases that must stand behind a number.
    """
    sums: dict[TrustScore, dict[str, ExpectedSums]] = {}
    for organ, of_organ in blocks.items():
        keys = [[case.key for case in block] for block in of_organ]
        kept, _ = score_sums([[scores[key][organ] for key in block] for block in keys], fewest)
        for score in {score for block in keys for key in block for score in expected[key]}:
            pairs = [
                [(expected[key][score][organ], scores[key][organ].dsc) for key in keys[number]]
                for number in kept
            ]
            sums.setdefault(score, {})[organ] = expected_beside(pairs, fewest)
    return sums


def sums_of_scans(
    blocks: Sequence[Sequence[Expected]], organs: Sequence[str], fewest: int
) -> dict[TrustScore, dict[str, ExpectedSums]]:
    """What may leave of unlabelled scans."""
    scores = {score for block in blocks for case in block for score in case}
    return {
        score: {
            organ: ExpectedSums(
                unlabelled=expected_of_scans(
                    [[case[score][organ] for case in block] for block in blocks], fewest
                )
            )
            for organ in organs
        }
        for score in scores
    }
