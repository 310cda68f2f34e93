"""Numbers in sentences."""


def counted(number: int, thing: str) -> str:
    """As "1 step", "2,000 steps"."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def listed_names(names: list[str]) -> str:
    """As "A, B and C"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
