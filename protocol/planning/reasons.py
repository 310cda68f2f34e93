"""Why training, waiting and scores are planned as they are, for who reads the study file."""

from collections.abc import Iterable, Iterator, Mapping

from protocol.config.schedule import evaluation_rounds
from protocol.config.study import StudyProtocol
from protocol.planning.budget import Budget, Machines
from protocol.planning.candidate import Candidate, Found, too_large
from protocol.planning.fingerprint import Fingerprint, Share
from protocol.planning.rules import (
    BATCH,
    BATCH_SHARE,
    FEW_LABELLED,
    LONG_OVERLAP,
    LONG_PREDICTION_S,
    MOST_LOCAL_STEPS,
    ONE_PIECE,
    SHORT_OVERLAP,
    STEPS_BEFORE_BATCH,
    USABLE_TIME,
    WIDER,
)
from protocol.wording import counted, figures

# A round is waited for so many times as long as it is planned to take.
PATIENCE = 3
# So often a scan is trained on that it may be learnt by heart.
_OFTEN = 100
_NONE_UNLABELLED = (
    "no site has unlabelled scans: all the time is S's, no confidence network is trained"
)


def supervised_reasons(names: Iterable[str]) -> dict[str, str]:
    """Of the terms that would read the confidence network."""
    return {f"method.{name}": _NONE_UNLABELLED for name in names}


def turn_reasons(names: Iterable[str]) -> dict[str, str]:
    """Of how far views are turned."""
    why = (
        "a flat patch is turned in its plane alone, and one view in five any way round, as in"
        " nnU-Net: some short-axis scans lie on their side; less where all of yours are upright"
    )
    return {f"training.{name}": why for name in names}


def training_reasons(
    budget: Budget, machines: Machines, chosen: Candidate, asked: int | None
) -> dict[str, str]:
    """Of rounds, steps and batch.

    Args:
        budget: Of the study.
        machines: Of the sites.
        chosen: The network, its steps those that there is time for.
        asked: Steps, where somebody wants them.
    """
    steps = chosen.local_steps if asked is None else asked
    minutes = (
        f"{figures(steps * chosen.step_s / 60, 2)} of"
        f" {counted(budget.minutes_a_round, 'minute')} at site {machines.slowest}"
    )
    patches = counted(steps * budget.rounds * chosen.batch, "labelled patch")
    reason = (
        f"{minutes}, the slowest ({USABLE_TIME:.0%} may be steps; start, loading, scores and"
        f" transfer take the rest); {patches} at each site with labels over the study"
    )
    if asked is not None:
        reason = (
            f"as asked: {minutes}; grid, patch and width are planned for the"
            f" {counted(chosen.local_steps, 'step')} that there is time for"
        )
    elif chosen.local_steps == MOST_LOCAL_STEPS:
        reason = f"the most between two averagings, or sites drift apart: {reason}"
    batch = (
        f"small batches leave many steps; a larger one is taken where {STEPS_BEFORE_BATCH:,} steps"
        f" are left and it holds {BATCH_SHARE:.0%} of all training voxels at most"
    )
    if chosen.batch > BATCH:
        batch = (
            f"the largest that leaves {STEPS_BEFORE_BATCH:,} steps and holds {BATCH_SHARE:.0%} of"
            " all training voxels at most"
        )
    return {
        "training.rounds": "as asked" if budget.rounds_asked else "the default",
        "training.local_steps": reason,
        "training.batch_size": batch,
    }


def waiting_reasons(base: StudyProtocol, sites: int, minutes: float) -> dict[str, str]:
    """Of how many sites a round needs, and how long it waits for them."""
    usual = base.aggregation.min_sites
    return {
        "aggregation.min_sites": (
            f"so many sites must answer for a round to count: {usual} in the recipe"
            + (", but here is only one" if sites < usual else f", and there are {sites}")
        ),
        "aggregation.round_timeout_s": (
            f"a round waits so long for its sites: {PATIENCE} times its"
            f" {counted(minutes, 'minute')}, or the recipe's"
            f" {base.aggregation.round_timeout_s:g} s if that is longer"
        ),
    }


def evaluation_reasons(
    planned: StudyProtocol,
    wider: Share,
    pieces: Mapping[str, Share],
    long_s: float,
    machines: Machines,
) -> dict[str, str]:
    """Of how scans are predicted and scored.

    Args:
        planned: The study.
        wider: Scans of which much is air around the body.
        pieces: By organ, cases in which it is in one piece.
        long_s: Of the median scan with the longer overlap, seconds.
        machines: Of the sites.
    """
    due = evaluation_rounds(planned)
    rounds = ", ".join(map(str, due)) if len(due) <= 8 else f"{due[0]}, {due[1]}, ... {due[-1]}"
    listed = ", ".join(f"{o} {s.holding}/{s.cases}" for o, s in pieces.items()) or "no site says"
    air = f"in {wider.holding} of {counted(wider.cases, 'scan')} much is air around the body"
    return {
        "evaluation.windows": (
            (air if wider.cases else "no site says how much of its scans is air")
            + f"; windows in air are left out (body) where that is so in {WIDER:.0%} or more"
        ),
        "evaluation.overlap": (
            f"with {LONG_OVERLAP:g} the median scan takes {figures(long_s, 2)} s at site"
            f" {machines.slowest}; over {LONG_PREDICTION_S:g} s it would be {SHORT_OVERLAP:g}"
        ),
        "evaluation.largest_component": (
            f"only the largest piece is kept of an organ that is in one piece in {ONE_PIECE:.0%} of"
            f" its cases: {listed}"
        ),
        "evaluation.every_rounds": (
            f"a quarter of the rounds, and the last: scores after rounds {rounds}"
            if len(due) > 1
            else "scores after the only round"
        ),
    }


def _memory_bound(
    fingerprints: Mapping[str, Fingerprint], machines: Machines, found: Found
) -> Iterator[str]:
    """Where time would allow more than the memory of the budget, and the sites have that."""
    least = min((f.memory_gib for f in fingerprints.values() if f.memory_gib), default=0.0)
    refused = [candidate for candidate in (found.finer, found.wider) if candidate is not None]
    if least > machines.memory_gib and any(too_large(c, machines) for c in refused):
        yield (
            f"memory is the bound: with more than {figures(machines.memory_gib)} GiB, of the"
            f" {figures(least)} GiB that every site has, the network would be wider or the grid"
            " finer"
        )


def summary(
    fingerprints: Mapping[str, Fingerprint],
    budget: Budget,
    machines: Machines,
    found: Found,
    steps: int,
) -> tuple[str, ...]:
    """What the plan rests on and takes, a line each."""
    chosen = found.chosen
    lines = [
        f"planned for {figures(budget.memory_gib)} GiB,"
        f" {counted(budget.minutes_a_round, 'minute')} a round, {counted(budget.rounds, 'round')}",
        *(
            f"site {site}: {f.labelled} labelled and {f.unlabelled} unlabelled scans to train"
            f" on, {figures(f.step_gigamacs / f.step_seconds)} GMAC/s"
            + (f", {figures(f.memory_gib)} GiB" if f.memory_gib else "")
            for site, f in fingerprints.items()
        ),
        "GMAC/s: billions of multiplications a second in a training step",
    ]
    labelled = {site: f.labelled for site, f in fingerprints.items() if f.labelled}
    total = steps * budget.rounds
    seconds = total * chosen.step_s
    lasting = counted(seconds / 60, "minute") if seconds >= 60 else counted(seconds, "second")
    lines.append(
        f"{counted(total, 'step')} of {counted(chosen.batch, 'labelled patch')} at each of"
        f" {counted(len(labelled), 'site')} with labels, {lasting} of training at the slowest"
        f" site, {machines.slowest}"
    )
    minutes = chosen.minutes_of(steps)
    if minutes > budget.minutes_a_round:
        lines.append(
            f"the steps asked for take {counted(minutes, 'minute')} a round, more than the"
            f" {counted(budget.minutes_a_round, 'minute')} given"
        )
    lines += _memory_bound(fingerprints, machines, found)
    if sum(labelled.values()) < FEW_LABELLED:
        fewest = min(labelled, key=lambda site: labelled[site])
        seen = total * chosen.batch / labelled[fewest]
        few = f"few labels: {counted(sum(labelled.values()), 'labelled training scan')} in all"
        if seen >= _OFTEN:
            few += (
                f"; a scan of site {fewest} is trained on {seen:,.0f} times, and a network learns"
                " so few by heart: more labelled scans help before more steps"
            )
        lines.append(few)
    return tuple(lines)
