"""The colours of reports, distinguishable by the colour-blind (Okabe and Ito)."""

from collections.abc import Mapping

# Without the yellow, which white paper swallows.
ON_PAPER = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Light enough for a grey scan.
ON_SCAN = ("#56B4E9", "#F0E442", "#FF7F50", "#CC79A7", "#00C896", "#FFFFFF", "#E69F00", "#9D8CFF")
UNCERTAIN = "#FF00DC"  # no organ's
# One of many, and the one that they are compared with.
PALE, HIGHLIGHT = "#B9D4E6", ON_PAPER[4]
# A line in the background.
FAINT = "#BBBBBB"


def organ_colours(organs: Mapping[str, int]) -> dict[str, str]:
    """Each organ's colour on a scan, by the order of their values; colours recur after eight."""
    ordered = sorted(organs, key=lambda organ: organs[organ])
    return {organ: ON_SCAN[number % len(ON_SCAN)] for number, organ in enumerate(ordered)}


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of #RRGGBB."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
