"""The moving average of S's global weights over rounds, which `average_decay` has judged and kept.

Centre and site work it out alike, each from the global weights that a site is sent for a round
anyway: nothing more travels, and every weight in it has been compared as all global weights are.
"""

from dataclasses import dataclass

from protocol.wire.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Average:
    """Of the rounds up to one.

    Attributes:
        weights: The average, float32.
        round: The last round in it.
        mass: What its rounds weigh together, where the last one weighs 1.
    """

    weights: Weights
    round: int
    mass: float


def averaged(before: Average | None, weights: Weights, round_number: int, decay: float) -> Average:
    """The average with one more round.

    A_r = sum_k decay^(r - k) theta_k / sum_k decay^(r - k): a mean from the first round on, of
    which the seed's first weights are no part.

    Args:
        before: The average so far; of other rounds than the last where some were not seen.
        weights: S after the round, as sites are sent it.
        round_number: The round; one that is in the average already changes nothing.
        decay: What a round weighs of its successor, in (0, 1).

    Source: Polyak & Juditsky 1992; the division as in Adam (Kingma & Ba, ICLR 2015).
    """
    if before is None:
        return Average(weights=weights, round=round_number, mass=1.0)
    if round_number <= before.round:
        return before
    mass = before.mass * decay ** (round_number - before.round) + 1.0
    means = {
        name: (old.double() + (weights[name].double() - old.double()) / mass).to(old.dtype)
        for name, old in before.weights.items()
    }
    return Average(weights=means, round=round_number, mass=mass)
