"""Words that messages share."""


def counted(number: float, noun: str) -> str:
    """A number with its noun: 1 round, 20 rounds, 2.5 minutes, 1,500 patches."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:.3g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"
