"""A site's update, shortened to the bound that the study declares for it."""

from protocol.agreement.bounds import distance, scaled_change
from protocol.wire.weights import Weights


def clip_update(
    trained: Weights, sent: Weights, residual: Weights | None, bound: float
) -> tuple[Weights, Weights | None]:
    """What may leave of one round's change of a network, with what the last one left to be sent.

    The bound is of their sum, which is what travels; it is held before that is rounded, so that
    what clipping takes away is not sent with a later round (Karimireddy et al., ICML 2019, feed
    back what compression loses and nothing else).

    Args:
        trained: Weights after the round.
        sent: Weights that the site was sent for it.
        residual: What the last round's rounding left; None or {}: nothing.
        bound: L2 norm (`update_bound`).

    Returns:
        Weights and residual, the very same where the bound holds.
    """
    left = residual or {}
    meant = {name: w + left[name] if name in left else w for name, w in trained.items()}
    change = distance(meant, sent)
    if change <= bound:
        return trained, residual
    factor = bound / change
    kept = {name: scaled_change(w, sent[name], factor) for name, w in trained.items()}
    return kept, {name: factor * rest for name, rest in left.items()}
