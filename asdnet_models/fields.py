"""What the fields of every configuration and record are made of.

Models of pydantic: immutable, and an unknown key is an error.  Every number, list and text has
bounds that no honest study exceeds: a configuration may come from somebody else's machine.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from asdnet_models.organs import MAX_ORGANS

Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(max_length=64)]
Width = Annotated[int, Field(ge=1, le=256)]
Edge = Annotated[int, Field(ge=1, le=1024)]  # voxels
SpacingMm = Annotated[float, Field(ge=0.05, le=50)]
# A weight of a loss; the largest that a paper of this field uses is 10.
LossWeight = Annotated[float, Field(ge=0, le=100)]
MAX_POINTS = 16  # at which something changes in the course of a study
Windows = Literal["all", "body", "organs"]


def _all_or_these(value: object) -> object:
    """One mistake where pydantic would report one of each form."""
    listed = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    if not (listed or isinstance(value, bool)):
        raise ValueError(f"must be true, false or a list of organs, not {value!r:.80}")
    return value


AllOrThese = Annotated[
    bool | Annotated[tuple[Name, ...], Field(max_length=MAX_ORGANS)],
    BeforeValidator(_all_or_these),
]


class Frozen(BaseModel):
    """Immutable; an unknown key is an error, not a silently ignored wish; so is NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
