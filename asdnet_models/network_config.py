"""Configuration of the two networks, S and D: channels, strides and kernels by stage and axis."""

from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from asdnet_models.catalogue import NETWORKS, check_name
from asdnet_models.fields import Frozen, Name, Width
from asdnet_models.stages import (
    THREE_HALVINGS,
    Kernels,
    Stages,
    Strides,
    Triple,
    check_no_stages,
    check_stages,
    product,
    repeated,
)


class NetworkConfig(Frozen):
    """The segmentation network S (method: Nie et al. 2018; V-Net: Milletari et al. 2016)."""

    architecture: Name = Field("svnet", description="a name of asdnet_models/catalogue.py")
    width: Width = Field(16, description="channels at full resolution")
    kernel: Literal[3, 5] = Field(5, description="edge of the convolution kernels, voxels")
    norm: Literal["group", "batch"] = Field(
        "group", description="batch statistics do not average well over sites"
    )
    strides: Strides | None = Field(
        None,
        description="by down-sampling, the factor along x, y, z; null: 2, as often as the network "
        "does in its source; vnet repeats the last once more",
    )
    kernels: Kernels | None = Field(
        None,
        description="by stage (one more than strides), edges of the convolution kernels along x, "
        "y, z, voxels; null: `kernel` everywhere",
    )
    max_width: int | None = Field(
        None, ge=1, le=1024, description="channels of a stage at most; null: doubled at every stage"
    )
    deep_supervision: bool = Field(
        False, description="heads at lower resolutions learn too; dsresunet always has them"
    )

    @field_validator("architecture")
    @classmethod
    def _architecture_is_known(cls, name: str) -> str:
        return check_name(name, NETWORKS)

    @model_validator(mode="after")
    def _stages_are_possible(self) -> Self:
        if NETWORKS[self.architecture].repeats is None:
            own = (self.strides, self.kernels, self.max_width, self.deep_supervision or None)
            check_no_stages(self.architecture, own)
        deep = self.deep_supervision
        check_stages(self._listed, self.kernels, self.width, self.max_width, deep=deep)
        return self

    @property
    def stages(self) -> Stages:
        """Of S; a network that takes no strides halves every axis as often as it does."""
        known = NETWORKS[self.architecture]
        if self.strides is None:
            strides: tuple[Triple, ...] = ((2, 2, 2),) * (known.stride.bit_length() - 1)
        else:
            strides = repeated(self.strides, known.repeats)
        kernels = None if self.kernels is None else repeated(self.kernels, known.repeats)
        return Stages.of(self.width, self.kernel, strides, kernels, self.max_width)

    @property
    def confidence_strides(self) -> tuple[Triple, ...]:
        """Of D: the first three of those listed for S; a D of the paper's halves three times."""
        return self._listed[:3]

    @property
    def _listed(self) -> tuple[Triple, ...]:
        return THREE_HALVINGS if self.strides is None else self.strides

    @property
    def confidence_kernels(self) -> tuple[Triple, ...] | None:
        """Of those stages of S; null: D's own."""
        return None if self.kernels is None else self.kernels[: len(self.confidence_strides)]

    @property
    def stride(self) -> Triple:
        """Every patch edge must be a multiple of this many voxels, for S and for D: x, y, z."""
        x, y, z = map(max, self.stages.stride, product(self.confidence_strides))
        return x, y, z


class ConfidenceConfig(Frozen):
    """The confidence network D.  The defaults are the paper's form."""

    architecture: Literal["fcn", "cnn"] = Field(
        "fcn", description="one logit a voxel, or one a patch (row AttSVNet+CNN)"
    )
    width: Width = Field(16, description="channels after the first convolution")
    input: Literal["maps", "maps+image"] = Field(
        "maps", description="what D sees: class maps alone, or the scan with them"
    )
    target: Literal["adversarial", "correctness"] = Field(
        "adversarial",
        description="what D learns: reader's map or S's (Eq. 3), or where S is right on labelled "
        "patches",
    )
    prior: Literal["none", "softmax"] = Field(
        "none",
        description="softmax: M's log-odds are the mean of D's and the largest class probability's",
    )

    @field_validator("target")
    @classmethod
    def _correctness_needs_a_map(cls, target: str, info: ValidationInfo) -> str:
        if target == "correctness" and info.data.get("architecture") == "cnn":
            raise ValueError(
                "must be 'adversarial' where architecture is 'cnn' (one logit a patch cannot say "
                "which voxels are right), not 'correctness'; set the architecture to 'fcn'"
            )
        return target
