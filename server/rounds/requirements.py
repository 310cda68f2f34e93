"""Whether what a site declares meets the study's contract."""

from protocol.config.rules import MEANING
from protocol.config.study import StudyProtocol
from protocol.wire.messages import SiteFacts


def unmet(site: str, facts: SiteFacts, protocol: StudyProtocol) -> list[str]:
    """What the site breaks, a line each with the rule's name; empty where it breaks nothing."""
    contract = protocol.contract
    used = facts.labelled + facts.unlabelled + facts.validation + facts.test
    refused = sum(facts.refused.values())
    found = []
    if not contract.tolerates(refused, used):
        allowed = f"at most {contract.max_refused_share:.0%} may be"
        found += [
            f"site {site}: rule {rule} ({MEANING[rule]}): {count} of {refused + used} cases "
            f"refused, {allowed}"
            for rule, count in sorted(facts.refused.items())
        ]
    if facts.labelled + facts.unlabelled == 0:
        found.append(f"site {site}: rule missing: no training case")
    if facts.labelled < contract.min_labelled:
        found.append(
            f"site {site}: contract.min_labelled: {facts.labelled} labelled training cases, at "
            f"least {contract.min_labelled} must be"
        )
    return found
