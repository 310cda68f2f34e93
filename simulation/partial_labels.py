"""Hides annotations of some organs at a site, and leaves sites out, to measure their effect."""

from collections.abc import Collection, Mapping, Sequence

from simulation.errors import SplitError

# By site, the organs that it has not drawn.
Hidden = Mapping[str, frozenset[str]]


def parse_hidden(texts: Sequence[str]) -> dict[str, frozenset[str]]:
    """Hidden organs from the form `A=bladder,rectum`, one text a site.

    Raises:
        SplitError: A text is not SITE=ORGAN,ORGAN, or a site is named twice; all mistakes.
    """
    hidden: dict[str, frozenset[str]] = {}
    mistakes = []
    for text in texts:
        site, _, listed = (part.strip() for part in text.partition("="))
        organs = frozenset(filter(None, (organ.strip() for organ in listed.split(","))))
        if not site or not organs:
            mistakes.append(f"--hide {text}: is not SITE=ORGAN,ORGAN, such as A=bladder,rectum")
        elif site in hidden:
            mistakes.append(f"--hide {text}: site {site} is named twice; name it once, all organs")
        hidden[site] = organs
    if mistakes:
        raise SplitError("\n".join(mistakes))
    return hidden


def check_choice(
    hidden: Hidden, left_out: Collection[str], sites: Collection[str], organs: Collection[str]
) -> None:
    """Check what is hidden and which sites are left out.

    Args:
        hidden: By site, its hidden organs.
        left_out: Sites that do not take part.
        sites: All sites that have cases.
        organs: The study's.

    Raises:
        SplitError: For a site or an organ that is not there, a site that would have no organ or
            is also left out, or no site that is left; all mistakes.
    """
    mistakes = [
        f"{option} {site}: is no site; the sites are {', '.join(sorted(sites))}"
        for option, named in (("--hide", hidden), ("--leave-out", left_out))
        for site in sorted(named)
        if site not in sites
    ]
    for site, names in sorted(hidden.items()):
        foreign = sorted(names - set(organs))
        if foreign:
            mistakes.append(f"--hide {site}: {foreign[0]} is no organ; there are {list(organs)}")
        if names >= set(organs):
            mistakes.append(f"--hide {site}: leaves no organ; leave the site out instead")
        if site in left_out:
            mistakes.append(f"--hide {site}: is also left out; give one of the two")
    if not set(sites) - set(left_out):
        mistakes.append("--leave-out: leaves no site; name fewer")
    if mistakes:
        raise SplitError("\n".join(mistakes))
