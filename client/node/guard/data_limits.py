"""Compares a study with this site's limits by what its folder holds: names, and scans' headers."""

from client.data.folder.layout import survey_folder
from client.data.grid_size import broken_by_scans
from client.node.guard.limits import broken_by_cases, broken_limits
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol


def broken_by_data(
    config: SiteConfig,
    protocol: StudyProtocol,
    plan: RoundPlan | None = None,
    *,
    headers: bool = True,
) -> list[str]:
    """Which limits a study breaks with this site's cases: too few, too large, no room for them.

    A folder with mistakes breaks none: what is wrong with it is said where it is read.

    Args:
        config: The site.
        protocol: The study.
        plan: Of the round that is to be trained; None: of no round yet.
        headers: Look into the scans' headers too, not at names alone.
    """
    try:
        survey = survey_folder(config.data, config)
    except OSError:
        return []
    if survey.refused:
        return []
    parts = [case.part for case in survey.cases]
    broken = broken_by_cases(config, parts.count("labelled"), parts.count("unlabelled"), plan)
    return broken + (broken_by_scans(config, protocol, survey.cases) if headers else [])


def all_broken(config: SiteConfig, protocol: StudyProtocol) -> list[str]:
    """Every limit of the site that the study breaks, before its first round."""
    return broken_limits(config, protocol) + broken_by_data(config, protocol)
