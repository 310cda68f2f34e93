"""Compares a study with this site's limits before anything of it is stored or run.

Nothing here takes more than milliseconds or a few MB, whatever the study asks for: the networks
are looked at without a value in them (`asdnet_models/networks/footprint.py`).
"""

import math
from collections.abc import Iterator
from datetime import datetime, time, timedelta

from asdnet_models.networks.footprint import footprint
from asdnet_models.schedule import LossSchedule
from protocol.config.limits import limit_line
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

GIB = 2**30


def broken_limits(config: SiteConfig, protocol: StudyProtocol) -> list[str]:
    """What a study asks for beyond this site's limits, all at once: setting, value, limit, remedy.

    Cases and hours are not in it: see `broken_by_cases` and `closed`.
    """
    return [*_at_least(config, protocol), *_at_most(config, protocol), *_cost(config, protocol)]


def broken_by_fingerprint(config: SiteConfig) -> list[str]:
    """Whether this site says nothing for plans."""
    if config.limits.fingerprint:
        return []
    found = "the centre asks for a fingerprint, to plan a study"
    remedy = "have the centre plan without this site, or set it to true"
    return [limit_line(config.site, "fingerprint", found, "none", remedy)]


def broken_by_cases(
    config: SiteConfig, labelled: int, unlabelled: int, plan: LossSchedule | None = None
) -> list[str]:
    """Whether an update would rest on too few training cases of this site.

    Args:
        config: The site.
        labelled: Its training cases with labels.
        unlabelled: Those without.
        plan: Of the round; unlabelled cases rest in some.  None: of no round yet, all count.
    """
    least = config.limits.min_cases
    counted = unlabelled
    if plan is not None and not (plan.uses_unlabelled if labelled else plan.works_without_labels):
        counted = 0
    if labelled + counted >= least:
        return []
    rest = f"; {unlabelled} unlabelled ones rest in this round" if counted < unlabelled else ""
    return [
        limit_line(
            config.site,
            "min_cases",
            f"an update would rest on {labelled + counted} training cases{rest}",
            f"{least} at least",
            "add cases, or leave the study: so few can be read out of an update",
        )
    ]


def closed(config: SiteConfig, now: datetime) -> str:
    """Why this site does not work at that local time, and when it will; empty where it does."""
    ranges, clock = config.limits.open_hours, now.time()
    if not ranges or any(_within(clock, begin, end) for begin, end in ranges):
        return ""
    begins = (datetime.combine(now.date(), begin) for begin, _ in ranges)
    local = now.replace(tzinfo=None)
    opens = min(begin if begin > local else begin + timedelta(days=1) for begin in begins)
    return limit_line(
        config.site,
        "hours",
        f"it is {clock:%H:%M}",
        f"{', '.join(config.limits.hours)} alone",
        f"this site works again at {opens:%H:%M}",
    )


def _within(clock: time, begin: time, end: time) -> bool:
    return begin <= clock < end if begin < end else clock >= begin or clock < end


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _at_least(config: SiteConfig, protocol: StudyProtocol) -> Iterator[str]:
    limits, training = config.limits, protocol.training
    patches = training.local_steps * training.batch_size
    more = "have the centre train longer between two updates: short ones show single patches"
    if training.local_steps < limits.min_local_steps:
        found = f"training.local_steps is {training.local_steps}"
        yield limit_line(
            config.site, "min_local_steps", found, f"{limits.min_local_steps} at least", more
        )
    if patches < limits.min_patches:
        found = f"training.local_steps * batch_size is {patches} patches"
        yield limit_line(config.site, "min_patches", found, f"{limits.min_patches} at least", more)


def _at_most(config: SiteConfig, protocol: StudyProtocol) -> Iterator[str]:
    limits, training = config.limits, protocol.training
    patch = " x ".join(map(str, protocol.patch_voxels))
    asked: list[tuple[str, str, float, float]] = [
        ("max_rounds", "training.rounds", training.rounds, limits.max_rounds),
        (
            "max_local_steps",
            "training.local_steps",
            training.local_steps,
            limits.max_local_steps,
        ),
        ("max_batch", "training.batch_size", training.batch_size, limits.max_batch),
        (
            "max_patch_voxels",
            f"patch_voxels ({patch})",
            math.prod(protocol.patch_voxels),
            limits.max_patch_voxels,
        ),
        ("max_width", "network.width", protocol.network.width, limits.max_width),
        ("max_width", "confidence.width", protocol.confidence.width, limits.max_width),
        (
            "max_learning_rate",
            "training.lr_segmenter",
            training.lr_segmenter,
            limits.max_learning_rate,
        ),
        (
            "max_learning_rate",
            "training.lr_confidence",
            training.lr_confidence,
            limits.max_learning_rate,
        ),
        (
            "max_update",
            "aggregation.max_update",
            protocol.aggregation.max_update,
            limits.max_update,
        ),
    ]
    for limit, setting, value, most in asked:
        if not value <= most:
            yield limit_line(
                config.site, limit, f"{setting} is {_short(value)}", f"{_short(most)} at most"
            )


def _cost(config: SiteConfig, protocol: StudyProtocol) -> Iterator[str]:
    """Of the networks: their parameters, and the memory of a step."""
    limits = config.limits
    batch = math.ceil(protocol.training.batch_size / config.accumulate)
    try:
        cost = footprint(protocol, batch)
    except Exception as error:
        # A network of the site's own making, which cannot be looked at without values.
        name = protocol.network.architecture
        found = f"the memory of network {name} cannot be estimated ({type(error).__name__})"
        allowed = f"{limits.max_memory_gib:g} GiB at most"
        yield limit_line(
            config.site, "max_memory_gib", found, allowed, "ask the centre for another network"
        )
        return
    if cost.parameters > limits.max_parameters:
        found = f"the networks have {cost.parameters:,} parameters"
        allowed = f"{limits.max_parameters:,} at most"
        yield limit_line(config.site, "max_parameters", found, allowed)
    if cost.step_bytes > limits.max_memory_gib * GIB:
        found = f"a training step takes about {cost.step_bytes / GIB:.3g} GiB"
        allowed = f"{limits.max_memory_gib:g} at most"
        yield limit_line(config.site, "max_memory_gib", found, allowed)
