"""The box around what a mask holds."""

import numpy as np
from numpy.typing import NDArray


def bounding_box(mask: NDArray[np.bool_], margin: int = 0) -> tuple[slice, ...]:
    """The box of a mask and so many voxels around it, as an index; empty for an empty mask.

    It does not begin before the array; where it ends after it, an index is clipped.
    """
    box: list[slice] = []
    # Each axis is looked at in what the axes before it have left: the first cut saves the most.
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        inside = np.flatnonzero(mask[tuple(box)].any(axis=others))
        if not len(inside):
            return (slice(0, 0),) * mask.ndim
        box.append(slice(max(int(inside[0]) - margin, 0), int(inside[-1]) + 1 + margin))
    return tuple(box)
