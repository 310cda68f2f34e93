"""Whether what a site declares meets the study's data requirements and what the centre approved."""

from collections.abc import Mapping

from protocol.config.rules import MEANING
from protocol.config.study import StudyProtocol
from protocol.wire.reports import SiteFacts
from protocol.wire.weights import MessageError
from server.rounds.rules import least_sites


def broken_requirements(site: str, facts: SiteFacts, protocol: StudyProtocol) -> list[str]:
    """What the site breaks, a line each with the rule's name; empty where it breaks nothing."""
    requirements = protocol.contract
    used = facts.labelled + facts.unlabelled + facts.validation + facts.test
    refused = sum(facts.refused.values())
    broken = []
    if not requirements.tolerates(refused, used):
        allowed = f"at most {requirements.max_refused_share:.0%} may be"
        broken += [
            f"site {site}: rule {rule} ({MEANING[rule]}): {count} of {refused + used} cases "
            f"refused, {allowed}"
            for rule, count in sorted(facts.refused.items())
        ]
    if facts.labelled + facts.unlabelled == 0:
        broken.append(f"site {site}: rule missing: no training case")
    if facts.labelled < requirements.min_labelled:
        broken.append(
            f"site {site}: contract.min_labelled: {facts.labelled} labelled training cases, at "
            f"least {requirements.min_labelled} must be"
        )
    return broken


def refuse_unapproved(site: str, facts: SiteFacts, approved: Mapping[str, int] | None) -> None:
    """A site's weight is what it declares: no more than was approved when it was added.

    It is refused, not cut down: who declares more than it has said is wrong somewhere.

    Args:
        site: Its name.
        facts: Its declaration.
        approved: Training cases that each site may declare; None: nobody has approved any.

    Raises:
        MessageError: If it declares more.
    """
    declared = facts.labelled + facts.unlabelled
    if approved is not None and declared > approved.get(site, 0):
        raise MessageError(
            f"site {site} declares {declared} training cases, the centre has approved at most "
            f"{approved.get(site, 0)}; if the hospital has so many: asdnet-centre add-site {site} "
            f"--public-key FILE --max-cases {declared}"
        )


def too_few_for_the_rule(facts: Mapping[str, SiteFacts], protocol: StudyProtocol) -> str | None:
    """Why the study's rule cannot withstand the hostile sites that it has to; None: it can.

    Counted are sites with labels: those without rest until unlabelled scans help.
    """
    rules = protocol.aggregation
    if not rules.hostile:
        return None
    least = least_sites(rules.rule, rules.hostile)
    there = sum(f.labelled > 0 for f in facts.values())
    if there >= least:
        return None
    return (
        f"aggregation.rule: {rules.rule} withstands {rules.hostile} hostile sites (aggregation."
        f"hostile) from {least} sites with labels on, {there} are there; lower hostile, or await "
        "more sites"
    )
