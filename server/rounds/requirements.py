"""Whether what a site declares meets the study's data requirements (`contract`)."""

from protocol.config.rules import MEANING
from protocol.config.study import StudyProtocol
from protocol.wire.reports import SiteFacts


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
