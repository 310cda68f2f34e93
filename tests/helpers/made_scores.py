"""Scores of made-up cases."""

from asdnet_models.metrics import OrganScore
from asdnet_models.sums import OrganSums

MISSED = OrganScore(dsc=0.0, asd_mm=None, hd95_mm=None, nsd=0.0, failure="missed")
MADE_UP = OrganScore(dsc=0.0, asd_mm=None, hd95_mm=None, nsd=0.0, failure="made_up")
ABSENT = OrganScore(dsc=1.0, asd_mm=None, hd95_mm=None, nsd=1.0, failure=None)
BESIDE = OrganScore(dsc=0.0, asd_mm=30.0, hd95_mm=60.0, nsd=0.0, failure="far_off")


def seen(dsc: float, asd_mm: float = 1.0) -> OrganScore:
    """An organ that was found: HD95 is thrice its ASD, NSD its DSC."""
    return OrganScore(dsc=dsc, asd_mm=asd_mm, hd95_mm=3 * asd_mm, nsd=dsc, failure=None)


def sums_of(*cases: OrganScore | float) -> OrganSums:
    """Of cases; a number is the DSC of an organ that was found."""
    return OrganSums.of(case if isinstance(case, OrganScore) else seen(case) for case in cases)
