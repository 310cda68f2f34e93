"""Numbers in sentences."""


def listed_names(names: list[str]) -> str:
    """As "A, B and C"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
