"""A site's share of a round: steps, rates, patches and their views."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from asdnet_models.fields import MAX_POINTS, Fraction, Frozen

MOST = 100_000
Count = Annotated[int, Field(ge=1, le=MOST)]  # rounds, steps, sites
Rate = Annotated[float, Field(gt=0, le=1)]
Views = Literal["none", "weak", "strong"]
# In LPS terms: along x, y and z of an array.
Flip = Literal["left-right", "front-back", "up-down"]
FLIPS: tuple[Flip, ...] = get_args(Flip)
# A patch so many times as long as it is high has its slices far apart: a turn out of them would mix
# what does not touch.
_FLAT = 3.0


def is_flat(patch_voxels: Sequence[int]) -> bool:
    """Whether views of such a patch are turned in its plane alone."""
    return max(patch_voxels) > _FLAT * min(patch_voxels)


class RampConfig(Frozen):
    """When Eq. 5 and 6 begin, as fractions of the study's rounds (semi: Hung et al. 2018)."""

    adversarial_start: Fraction = Field(0.05, description="where Eq. 5 begins")
    region_start: Fraction = Field(
        0.25,
        description="where Eq. 6 begins; semi-embed: its embedding loss; a "
        "teacher's or second network's labels",
    )
    length: Fraction = Field(0.15, description="how long a term takes to reach its full weight")


class TrainingConfig(Frozen):
    """One site's share of a round, and how the rounds are scheduled."""

    rounds: Count = Field(60, description="rounds of the study")
    local_steps: Count = Field(50, description="optimiser steps a site and round")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        2, description="labelled patches a step; as many unlabelled"
    )
    lr_segmenter: Rate = Field(1e-3, description="Adam's learning rate of S")
    lr_confidence: Rate = Field(1e-4, description="Adam's learning rate of D")
    lr_schedule: Literal["steps", "polynomial"] = Field(
        "steps",
        description="how both rates fall by round: lr_decay at each of lr_decay_at; or with "
        "lr_power towards 0, which the last round does not reach",
    )
    lr_decay: float = Field(
        0.1, ge=1e-3, le=1, description="steps: factor on both rates at each decay point"
    )
    lr_decay_at: tuple[Fraction, ...] = Field(
        (1 / 3, 2 / 3),
        max_length=MAX_POINTS,
        description="steps: decay points, as fractions of the study's rounds",
    )
    lr_power: float = Field(
        0.9, gt=0, le=5, description="polynomial: rates times (1 - (round - 1) / rounds)^lr_power"
    )
    clip_norm: float | None = Field(
        None,
        ge=1e-3,  # with less nothing is learnt
        le=1e6,
        description="L2 norm that a step's gradient of S may have, longer ones are shortened to "
        "it; null: any",
    )
    average_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="over 0: the moving average of the global S over rounds is what is evaluated "
        "and kept as the model, a round before weighs so many times its successor; 0: the "
        "weights themselves are",
    )
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="Adam's weight decay, of both networks"
    )
    ramp: RampConfig = Field(RampConfig(), description="when the unsupervised terms begin")
    organ_patch_fraction: Fraction = Field(
        2 / 3, description="patches centred on an organ drawn uniformly; the rest lie anywhere"
    )
    views: Views = Field(
        "weak",
        description="random views of training patches: none; weak (flip, turn by 10 degrees, "
        "scale, gamma, noise); strong (some of them turned by turn_deg, scaled by .7 to 1.4, "
        "with another contrast, brightness, sharpness, resolution: nnU-Net's)",
    )
    turn_deg: float = Field(
        30.0,
        ge=0,
        le=180,
        description="strong views: the largest turn, degrees; about every axis, or in the plane "
        "of a flat patch, where 180 suits scans that lie in the plane as they like, as "
        "short-axis views of the heart",
    )
    flips: tuple[Flip, ...] = Field(
        ("left-right",),
        max_length=3,
        description="mirror images among the views: only those that no anatomy or organ's name "
        "forbids",
    )
    proximal_mu: float = Field(
        0.01,
        ge=0,
        le=1e4,
        description="pull to the global S at label-free sites; with 0 nothing but the labels of "
        "their unlabelled scans holds it there",
    )
    fedprox_mu: float = Field(
        0.0,
        ge=0,
        le=1e4,
        description="FedProx: pull to the global S at sites with labels; 0: none",
    )

    @model_validator(mode="after")
    def _turns_are_of_strong_views(self) -> Self:
        usual = type(self).model_fields["turn_deg"].default
        if self.views != "strong" and self.turn_deg != usual:
            raise ValueError(
                f"turn_deg must be left out where views is {self.views!r} (only strong views turn"
                f" so far), not {self.turn_deg:g}; leave it out, or set views to strong"
            )
        return self

    @field_validator("flips")
    @classmethod
    def _flips_are_named_once(cls, flips: tuple[Flip, ...]) -> tuple[Flip, ...]:
        if len(set(flips)) < len(flips):
            raise ValueError(f"must name each once, not {list(flips)}")
        return flips
