"""Masks of several organs as one label map."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from client.data.errors import ScanError

# Outlines of neighbours share a rim; more than that means that one of them is of something else.
_MOST_OVERLAP = 0.05


def merged(
    drawn: Mapping[str, NDArray[np.bool_]],
    organs: Mapping[str, int],
    shape: tuple[int, ...],
    location: str,
) -> NDArray[np.uint8]:
    """A label map in the organs' values; the smaller of two gets the voxels that both claim.

    Args:
        drawn: Masks by organ, (Z, Y, X).
        organs: Their values.
        shape: (Z, Y, X).
        location: How a message begins.

    Raises:
        ScanError: Two share more than a rim.
    """
    label = np.zeros(shape, np.uint8)
    sizes = {organ: int(np.count_nonzero(mask)) for organ, mask in drawn.items()}
    placed: list[str] = []
    for organ in sorted(drawn, key=lambda name: -sizes[name]):
        taken = label[drawn[organ]]
        for other in placed:
            shared = int(np.count_nonzero(taken == organs[other]))
            if shared > _MOST_OVERLAP * min(sizes[organ], sizes[other]):
                raise ScanError(
                    location,
                    f": {organ} and {other} share {shared} voxels, more than "
                    f"{_MOST_OVERLAP:.0%} of the smaller; correct the outlines",
                    rule="overlap",
                )
        label[drawn[organ]] = organs[organ]
        placed.append(organ)
    return label
