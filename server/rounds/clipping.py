"""How large an update may be at the centre, from the bound and from earlier rounds' updates.

Sites clip to the bound themselves; a hostile one does not.  Beyond that nobody's update counts for
more than a few times what is usual among its like.  What is usual is looked up in earlier rounds,
so that it is known too where a round has one or two of them.
"""

from collections.abc import Iterable, Mapping
from statistics import median

from protocol.agreement.bounds import update_bound
from protocol.config.schedule import RoundPlan
from protocol.wire.weights import Weights
from server.rounds.record import RoundRecord, StudyRecord

# Rounds that are looked back at.
HISTORY = 10

# L2 norms of what updates change, by site and network.
Norms = Mapping[str, Mapping[str, float]]


def clip_factors(
    record: StudyRecord, plan: RoundPlan, norms: Norms, labelled: Mapping[str, bool]
) -> dict[str, dict[str, float]]:
    """What the change of each update that is too large is multiplied by, by site and network.

    An update may have the norm of `update_bound`, and `max_norm_ratio` times what is usual: the
    median over earlier rounds of their medians, or this round's own if that is larger and of three
    or more.  Norms are compared as shares of their rounds' bounds, since rates fall.  Label-free
    sites are held near the global weights, and have a measure of their own.

    Args:
        record: With the rounds so far, and the weights before this one.
        plan: This round's.
        norms: Of the round's updates as they were received.
        labelled: Whether a site has labels, by site.
    """
    factors: dict[str, dict[str, float]] = {}
    for network, weights in record.networks.items():
        bound = update_bound(record.protocol, plan, network, weights)
        for kind in (True, False):
            alike = {
                site: of_site[network]
                for site, of_site in sorted(norms.items())
                if network in of_site and labelled[site] is kind
            }
            usual = _usual_share(record, network, weights, labelled=kind)
            middles = [] if usual is None else [usual * bound]
            if len(alike) > 2:
                middles.append(median(alike.values()))
            limit = bound
            if any(middles):
                limit = min(bound, record.protocol.aggregation.max_norm_ratio * max(middles))
            for site, norm in alike.items():
                if norm > limit:
                    factors.setdefault(site, {})[network] = limit / norm
    return factors


def shortened(clipped: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """In words, by site: by how many times which network's update was too large."""
    return {
        site: ", ".join(f"{network} {_times(1 / f)} too large" for network, f in of_site.items())
        for site, of_site in clipped.items()
    }


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times"


def _usual_share(
    record: StudyRecord, network: str, weights: Weights, *, labelled: bool
) -> float | None:
    """Median over the last rounds of the updates' median norm, a share of the bound; None: none."""
    middles = []
    for finished in reversed(record.rounds):
        norms = list(_counted_norms(finished, network, labelled=labelled))
        if norms:
            bound = update_bound(record.protocol, finished.plan, network, weights)
            middles.append(median(norms) / bound)
        if len(middles) == HISTORY:
            break
    return median(middles) if middles else None


def _counted_norms(finished: RoundRecord, network: str, *, labelled: bool) -> Iterable[float]:
    """Norms of a round's updates of one kind, as they were averaged: after clipping."""
    for site, of_site in finished.norms.items():
        if network in of_site and bool(finished.reports[site].labelled) is labelled:
            yield of_site[network] * finished.clipped.get(site, {}).get(network, 1.0)
