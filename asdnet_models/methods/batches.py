"""The patches of a training step, and their division for gradient accumulation."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from asdnet_models.class_maps import (
    merge_unannotated,
    merge_unannotated_logits,
    one_hot_maps,
)


@dataclass(frozen=True, kw_only=True)
class LabelledBatch:
    """Patches with their reference: image (B, 1, X, Y, Z) float, label alike, integer.

    Attributes:
        unannotated: (B, C), boolean: the organs that a sample's label does not annotate.  None: all
            are annotated in all samples.
    """

    image: Tensor
    label: Tensor
    unannotated: Tensor | None = None

    def __getitem__(self, samples: slice) -> "LabelledBatch":
        """Some of the samples."""
        unannotated = None if self.unannotated is None else self.unannotated[samples]
        return LabelledBatch(
            image=self.image[samples], label=self.label[samples], unannotated=unannotated
        )

    def twice(self) -> "LabelledBatch":
        """All samples, and all once more."""
        unannotated = None if self.unannotated is None else self.unannotated.repeat(2, 1)
        return LabelledBatch(
            image=torch.cat((self.image, self.image)),
            label=torch.cat((self.label, self.label)),
            unannotated=unannotated,
        )

    def known(self, maps: Tensor) -> Tensor:
        """Maps (B, C, X, Y, Z) of these samples, as far as their labels can judge them."""
        return maps if self.unannotated is None else merge_unannotated(maps, self.unannotated)

    def known_logits(self, logits: Tensor) -> Tensor:
        """`known` of logits: the softmax of what this gives is `known` of the logits' softmax."""
        if self.unannotated is None:
            return logits
        return merge_unannotated_logits(logits, self.unannotated)

    def target(self, classes: int) -> Tensor:
        """The label as one-hot maps, (B, C, X, Y, Z); the unannotated is background."""
        return self.known(one_hot_maps(self.label, classes))


@dataclass(frozen=True, kw_only=True)
class UnlabelledBatch:
    """Patches without a reference: image (B, 1, X, Y, Z) float.

    Attributes:
        image: As S sees it.
        pseudo_label: What the site's own model drew, where the method asks for it; integer.
        plain: The same views in the scans' own intensities, where a teacher labels them.
    """

    image: Tensor
    pseudo_label: Tensor | None = None
    plain: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The patches of a step, or of a part of it that holds `share` of them."""

    labelled: LabelledBatch | None
    unlabelled: Tensor | None
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.labelled is None and self.unlabelled is None:
            raise ValueError(
                "a step needs labelled or unlabelled patches; this site sampled neither"
            )

    @property
    def count(self) -> int:
        """Labelled patches."""
        return len(self.labelled.image) if self.labelled else 0

    @property
    def image(self) -> Tensor:
        """Labelled patches first, (B, 1, X, Y, Z)."""
        images = (self.labelled.image if self.labelled else None, self.unlabelled)
        return torch.cat([image for image in images if image is not None])

    def parts(self, count: int) -> list["Patches"]:
        """At most `count` parts, each with the same share of labelled and of unlabelled patches.

        Raises:
            ValueError: If there are not as many of both, so that no part is like the whole.
        """
        if count == 1:
            return [self]
        lengths = {len(self.labelled.image)} if self.labelled else set()
        lengths |= {len(self.unlabelled)} if self.unlabelled is not None else set()
        if len(lengths) > 1:
            raise ValueError(f"a step in parts needs batches of one length, not {sorted(lengths)}")
        (total,) = lengths
        edges = [total * part // min(count, total) for part in range(min(count, total) + 1)]
        return [
            Patches(
                labelled=self.labelled[start:stop] if self.labelled else None,
                unlabelled=None if self.unlabelled is None else self.unlabelled[start:stop],
                share=(stop - start) / total,
            )
            for start, stop in itertools.pairwise(edges)
        ]
