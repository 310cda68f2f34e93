"""What a site gives a study at most, and what an update of it rests on at least."""

import re
from datetime import time
from typing import Annotated

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from asdnet_models.fields import Frozen

_RANGE = r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])"


def limit_line(
    site: str,
    limit: str,
    found: str,
    allowed: str,
    remedy: str = "have the centre ask for less, or raise the limit",
) -> str:
    """One broken limit: where it stands, what was asked for, what is allowed, what to do."""
    return f"limits.{limit} of {site}.yaml: {found}, this site allows {allowed}; {remedy}"


class SiteLimits(Frozen):
    """The limits of one site, whatever a study asks for.

    Those of cases, patches and steps guard the patients: an update that rests on one patch shows
    it.  The others guard the machine.
    """

    min_cases: PositiveInt = Field(
        3, description="training cases, with labels or without, that one update rests on at least"
    )
    min_patches: PositiveInt = Field(
        20, description="patches that one update rests on at least: local_steps * batch_size"
    )
    min_local_steps: PositiveInt = Field(
        10, description="local steps at least: the first of Adam's gives its gradient away"
    )
    max_rounds: PositiveInt = Field(1000, description="rounds of a study")
    max_local_steps: PositiveInt = Field(1000, description="local steps of a round")
    max_batch: PositiveInt = Field(32, description="labelled patches of a step")
    max_patch_voxels: PositiveInt = Field(128**3, description="voxels of a patch")
    max_width: PositiveInt = Field(64, description="width of each network")
    max_parameters: PositiveInt = Field(10**8, description="parameters of both networks")
    max_memory_gib: PositiveFloat = Field(
        16.0, description="estimated memory of a training step, and of predicting one scan, GiB"
    )
    max_grid_voxels: PositiveInt = Field(
        2**28, description="voxels of one scan on the study's grid"
    )
    max_learning_rate: PositiveFloat = Field(0.01, description="learning rate of either network")
    max_update: PositiveFloat = Field(
        10.0, description="aggregation.max_update: how far weights may move in a round"
    )
    cache_gib: PositiveFloat = Field(
        100.0, description="disk that the cache takes; what was used longest ago goes first, GiB"
    )
    hours: tuple[str, ...] = Field(
        (),
        description="local times in which this site works, such as 20:00-06:00; []: always",
    )
    bytes_a_second: Annotated[int, Field(ge=2**18)] | None = Field(
        None,
        description="of the line to the centre, in both directions together, at least 262144;"
        " empty: all that it gives",
    )
    evaluations_per_round: NonNegativeInt = Field(
        3, description="how often scores leave for a round in which the study has them"
    )
    attempts_per_round: PositiveInt = Field(
        10, description="how often one round may be trained, as after a failure at the centre"
    )

    fingerprint: bool = Field(
        True,
        description="whether the centre may ask, by a run that is approved for that alone, what a "
        "study can be planned from: means over cases, and this machine's speed",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and info.field_name != "fingerprint":
            raise ValueError(f"must be a number, not {str(value).lower()}")
        return value

    @field_validator("hours")
    @classmethod
    def _hours_last(cls, hours: tuple[str, ...]) -> tuple[str, ...]:
        for text in hours:
            if re.fullmatch(_RANGE, text) is None:
                raise ValueError(f"{text!r} is no range of times; write 20:00-06:00, in quotes")
            begin, end = text.split("-")
            if begin == end:
                raise ValueError(f"must end at another time than it begins, not {text}")
        return hours

    @property
    def instruction_bytes(self) -> int:
        """What the weights of one instruction may take: this round's, and those of the last.

        A number takes five bytes at most; the rest is for names and heads.
        """
        return 2 * 5 * self.max_parameters + 2**22

    @property
    def open_hours(self) -> tuple[tuple[time, time], ...]:
        """Begin and end of each range; where the end is the earlier one, it is the next day's."""
        ranges = []
        for text in self.hours:
            matched = re.fullmatch(_RANGE, text)
            assert matched is not None
            hour, minute, last_hour, last_minute = map(int, matched.groups())
            ranges.append((time(hour, minute), time(last_hour, last_minute)))
        return tuple(ranges)
