"""Random boxes, by which patches are cut and pasted."""

import torch
from torch import Tensor

# Of each edge, as BCP has it: three tenths of a patch.
EDGE = 2 / 3


def random_boxes(like: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A box at a random place in each sample.

    Args:
        like: (B, 1, X, Y, Z).
        share: Of each edge of a sample, in (0, 1); rounded down, at least a voxel.
        generator: On the CPU, so that a GPU draws the same.

    Returns:
        (B, 1, X, Y, Z), boolean, True inside, on the samples' device.
    """
    boxes = torch.zeros(like.shape, dtype=torch.bool)
    for sample in boxes[:, 0]:
        place = []
        for edge in sample.shape:
            length = max(1, int(edge * share))
            start = int(torch.randint(edge - length + 1, (), generator=generator))
            place.append(slice(start, start + length))
        sample[tuple(place)] = True
    return boxes.to(like.device)
