"""Losses and counts of training steps."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(kw_only=True, eq=False)
class StepRecord:
    """What one step measured, kept as tensors on the device until somebody reads it.

    Reading a number waits for the GPU to get there, so a round reads its records at its end.

    Attributes:
        noted: By name, values and what each weighs in their mean.
        weights: Eq. 2's, (B,) each.
        trusted: Voxels over gamma by sample and predicted class, (B, C) each.
        predicted: All voxels by sample and predicted class, (B, C) each.
    """

    noted: dict[str, list[tuple[Tensor, float | Tensor]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    weights: list[Tensor] = field(default_factory=list)
    trusted: list[Tensor] = field(default_factory=list)
    predicted: list[Tensor] = field(default_factory=list)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepRecord) and self._numbers() == other._numbers()

    def _numbers(self) -> tuple[object, ...]:
        return self.losses, self.attention, self.trusted_by_class, self.predicted_by_class

    def note(self, name: str, value: Tensor, weight: float | Tensor = 1.0) -> None:
        """A scalar; one that weighs nothing leaves no key."""
        self.noted[name].append((value.detach(), weight))

    def note_trusted(self, label: Tensor, trusted: Tensor, classes: int) -> None:
        """Trusted and all voxels of unlabelled patches, by sample and class.

        Args:
            label: The classes that are trusted, (B, 1, X, Y, Z), int64.
            trusted: Alike, boolean.
            classes: Background included.
        """
        flat = label.flatten(1)
        none = torch.zeros((len(label), classes), dtype=torch.int64, device=label.device)
        self.trusted.append(none.scatter_add(1, flat, trusted.flatten(1).long()))
        self.predicted.append(none.scatter_add(1, flat, torch.ones_like(flat)))

    def take_in(self, other: "StepRecord", share: float) -> None:
        """What a part of the step measured that is `share` of it."""
        for name, values in other.noted.items():
            # A weight that is a count already has the part's share of the step.
            self.noted[name] += [
                (value, weight * share if isinstance(weight, float) else weight)
                for value, weight in values
            ]
        self.weights += other.weights
        self.trusted += other.trusted
        self.predicted += other.predicted

    @property
    def losses(self) -> dict[str, float]:
        """By name; a key is absent where its term did not run."""
        read = {
            name: [(float(value), float(weight)) for value, weight in values if weight > 0]
            for name, values in self.noted.items()
        }
        return {name: _mean(values) for name, values in read.items() if values}

    @property
    def attention(self) -> list[float]:
        """Eq. 2's weight of each sample."""
        return [value for weights in self.weights for value in weights.tolist()]

    @property
    def voxels_by_sample(self) -> list[list[int]]:
        """Of each unlabelled patch, voxels over gamma and all voxels, by predicted class, (2 C,).

        Empty where Eq. 6 did not run.
        """
        pairs = zip(self.trusted, self.predicted, strict=True)
        return [row for pair in pairs for row in torch.cat(pair, 1).tolist()]

    @property
    def trusted_by_class(self) -> list[int]:
        """Voxels over gamma by predicted class; empty where Eq. 6 did not run."""
        return _summed(self.trusted)

    @property
    def predicted_by_class(self) -> list[int]:
        """Unlabelled patches' voxels by predicted class; empty where Eq. 6 did not run."""
        return _summed(self.predicted)


def _mean(values: Sequence[tuple[float, float]]) -> float:
    if len(values) == 1:
        return values[0][0]
    return sum(value * weight for value, weight in values) / sum(weight for _, weight in values)


def _summed(counts: Sequence[Tensor]) -> list[int]:
    if not counts:
        return []
    total: list[int] = torch.cat(list(counts)).sum(0).tolist()
    return total
