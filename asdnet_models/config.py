"""Configuration of a model: networks, method, inference.  A study's protocol extends it.

Models of pydantic: immutable, and an unknown key is an error.  The names of architectures
and methods are listed in `asdnet_models/catalogue.py`.  Every number, list and text has bounds
that no honest study exceeds: a configuration may come from somebody else's machine.
"""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from asdnet_models.catalogue import METHODS, NETWORKS, check_name
from asdnet_models.organs import MAX_ORGANS, check_organs
from asdnet_models.stages import (
    THREE_HALVINGS,
    Kernels,
    Stages,
    Strides,
    Triple,
    check_no_stages,
    check_patch,
    check_stages,
    product,
    repeated,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(max_length=64)]
Width = Annotated[int, Field(ge=1, le=256)]
Edge = Annotated[int, Field(ge=1, le=1024)]  # voxels
SpacingMm = Annotated[float, Field(ge=0.05, le=50)]
# A weight of a loss; the largest that a paper of this field uses is 10.
LossWeight = Annotated[float, Field(ge=0, le=100)]
MAX_POINTS = 16  # at which something changes in the course of a study
Windows = Literal["all", "body", "organs"]


class Frozen(BaseModel):
    """Immutable; an unknown key is an error, not a silently ignored wish; so is NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


class MethodConfig(Frozen):
    """Eq. 1 to 7.  Every ablation of the paper is a setting here, never a copy of the code."""

    name: Name = Field("asdnet", description="a name of asdnet_models/catalogue.py")
    supervised: Literal["dice", "dice+ce"] = Field(
        "dice",
        description="what S learns labels by: Eq. 1, or the mean of it and of the voxels' "
        "cross-entropy",
    )
    class_weight: Literal["inverse-square", "inverse", "uniform"] = Field(
        "inverse-square", description="pi_c of Eq. 1 and 6 as a power of the organ's volume"
    )
    sample_attention: Literal["literal", "normalised", "off"] = Field(
        "literal", description="Eq. 2 as printed, divided by its running mean, or left out"
    )
    beta: float = Field(2.0, ge=0, le=5, description="exponent of Eq. 2")
    lambda_adversarial: LossWeight = Field(0.03, description="lambda_1 of Eq. 7")
    lambda_region: LossWeight = Field(
        0.3, description="lambda_2 of Eq. 7; semi-fcn: weight of the pseudo-labels"
    )
    gamma_rule: Literal["fixed", "quantile", "calibrated"] = Field(
        "fixed",
        description="how Eq. 6 chooses what to trust: M > gamma; the best trusted_share of each "
        "class; or the smallest gamma at which trusted_precision of the organs' voxels of the "
        "sites' validation cases are right (gamma itself until they have been scored)",
    )
    gamma: float = Field(0.2, ge=0, lt=1, description="a voxel is trusted where M > gamma")
    trusted_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="quantile: share of each class's voxels that is trusted"
    )
    trusted_precision: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.95, description="calibrated: share of the trusted voxels that is to be right"
    )
    pseudo_labels_at: tuple[Fraction, ...] = Field(
        (0.25, 0.5, 0.75),
        max_length=MAX_POINTS,
        description="semi-fcn: when sites label their unlabelled scans anew, of all rounds",
    )
    lambda_embedding: LossWeight = Field(0.1, description="semi-embed: weight of the embedding")
    embedding_margin: float = Field(
        0.5, gt=0, le=100, description="semi-embed: margin between classes"
    )
    fakes_from_unlabelled: bool = Field(
        False, description="train D on predictions of unlabelled scans too (Hung et al. 2018)"
    )
    soften_real: float = Field(
        0.0, ge=0, lt=0.5, description="probability mass that 'real' one-hot masks give away"
    )

    @field_validator("name")
    @classmethod
    def _method_is_known(cls, name: str) -> str:
        return check_name(name, METHODS)

    @property
    def trains_confidence(self) -> bool:
        """Without Eq. 5 and 6 nothing reads D, so nothing trains it."""
        weights = (self.lambda_adversarial, self.lambda_region)
        return METHODS[self.name].confidence and any(weight > 0 for weight in weights)


class InferenceConfig(Frozen):
    """Sliding-window inference."""

    overlap: float = Field(
        0.5, ge=0, le=0.9, description="overlap of neighbouring windows, as a fraction of the patch"
    )
    windows: Windows = Field(
        "all",
        description="of a scan: all (the paper), those that hold any of the body, or of these "
        "first as few as cover it and then all those that may hold an organ",
    )
    largest_component: bool = Field(
        False, description="keep one component an organ; gas can split a rectum"
    )


class ModelConfig(Frozen):
    """What a model is: its classes, its grid, its two networks, how it learns and predicts."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        1, description="of the first weights and, with site and round, of every random draw"
    )
    organs: dict[str, int] = Field(
        {"bladder": 1, "prostate": 2, "rectum": 3},
        max_length=MAX_ORGANS,
        description="by organ, its value in label maps, 1 to 255; 0 is the background",
    )
    spacing_mm: tuple[SpacingMm, SpacingMm, SpacingMm] = Field(
        (1.0, 1.0, 1.0), description="voxel size that every scan is resampled to: x, y, z"
    )
    network: NetworkConfig = Field(NetworkConfig(), description="the segmentation network S")
    confidence: ConfidenceConfig = Field(ConfidenceConfig(), description="the confidence network D")
    # After the networks, whose strides it must fit.
    patch_voxels: tuple[Edge, Edge, Edge] = Field(
        (64, 64, 16), description="size of the training patch and of the inference window: x, y, z"
    )
    # After D, which must give what the method reads.
    method: MethodConfig = Field(
        MethodConfig(), validate_default=True, description="the losses, Eq. 1 to 7"
    )
    evaluation: InferenceConfig = Field(InferenceConfig(), description="inference")

    @field_validator("organs")
    @classmethod
    def _organs_are_valid(cls, organs: dict[str, int]) -> dict[str, int]:
        return check_organs(organs)

    @field_validator("patch_voxels")
    @classmethod
    def _patch_fits_the_strides(cls, patch: Triple, info: ValidationInfo) -> Triple:
        if (network := info.data.get("network")) is not None:
            check_patch(patch, network.stride)
        return patch

    @field_validator("method")
    @classmethod
    def _method_fits_the_networks(cls, method: MethodConfig, info: ValidationInfo) -> MethodConfig:
        confidence, network = info.data.get("confidence"), info.data.get("network")
        cnn = confidence is not None and confidence.architecture == "cnn"
        if cnn and method.trains_confidence and method.lambda_region > 0:
            raise ValueError(
                "lambda_region must be 0 where confidence.architecture is 'cnn' (Eq. 6 would trust "
                f"all of a patch or nothing), not {method.lambda_region:g}; set it to 0, or the "
                "architecture to 'fcn'"
            )
        if network and METHODS[method.name].embedding:
            able = [name for name, known in NETWORKS.items() if known.features]
            if network.architecture not in able:
                raise ValueError(
                    f"{method.name} needs the features before a network's head, which "
                    f"{network.architecture} does not give; take {' or '.join(able)}"
                )
        return method

    @property
    def classes(self) -> int:
        """Organs and background."""
        return len(self.organs) + 1

    @property
    def organ_names(self) -> tuple[str, ...]:
        """In the order of the networks' channels 1, 2, ..."""
        return tuple(sorted(self.organs, key=self.organs.__getitem__))
