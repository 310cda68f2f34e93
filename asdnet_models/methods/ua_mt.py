"""UA-MT: a mean teacher that counts only where it is certain under noise.

Source: Yu et al., MICCAI 2019.  A control: its uncertainty is of several passes of the teacher, not
of a network that has learnt where S is wrong.  They take eight passes with dropout; our networks
have none, so the noise of the image is all that differs between passes.
"""

import math

import torch
from torch import Tensor

from asdnet_models.methods.mean_teacher import MeanTeacher
from asdnet_models.schedule import ramp

_PASSES = 4
_NOISE_SD, _MOST_NOISE = 0.1, 0.2
# Of the entropy that classes of equal probability have, at the first round and at the last.
_FIRST, _LAST = 0.75, 1.0


class UncertaintyAwareMeanTeacher(MeanTeacher):
    """Entropy of the mean of several noisy passes under a threshold that rises over all rounds."""

    def _believed(self, image: Tensor, maps: Tensor) -> Tensor:
        total = torch.zeros_like(maps)
        for _ in range(_PASSES):
            # Drawn on the CPU, so that a GPU draws the same.
            noise = torch.randn(image.shape, generator=self.generator).to(image)
            noise = (noise * _NOISE_SD).clamp(-_MOST_NOISE, _MOST_NOISE)
            total += self.teacher.maps(image + noise)
        mean = total / _PASSES
        entropy = -(mean * mean.clamp_min(1e-6).log()).sum(1, keepdim=True)
        share = _FIRST + (_LAST - _FIRST) * ramp(self.plan.progress, 0.0, 1.0)
        return entropy < share * math.log(maps.shape[1])
