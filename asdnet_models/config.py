"""Configuration of a model: networks, method, inference.  A study's protocol extends it.

The names of architectures and methods are listed in `asdnet_models/catalogue.py`.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from asdnet_models.catalogue import METHODS, NETWORKS, check_name
from asdnet_models.fields import (
    MAX_POINTS,
    AllOrThese,
    Edge,
    Fraction,
    Frozen,
    LossWeight,
    Name,
    SpacingMm,
    Windows,
)
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.organs import MAX_ORGANS, check_organs
from asdnet_models.stages import Triple, check_patch


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
        0.3,
        description="lambda_2 of Eq. 7; semi-fcn: weight of the pseudo-labels; methods with a "
        "teacher or a second network: of what it says",
    )
    teacher_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="methods with a teacher: what the moving average of S keeps of itself at a "
        "step; over rounds it goes on from that of the global S",
    )
    gate: Literal["mask", "weight", "softmax", "none"] = Field(
        "mask",
        description="where region-teacher, weak-to-strong and copy-paste believe their teacher: "
        "where M is over gamma; by M as a weight; where the maximum softmax is over gamma, which "
        "needs no D; everywhere",
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
        """Where nothing reads D, nothing trains it."""
        kind = METHODS[self.name]
        if kind.teacher:
            asked = self.gate in ("mask", "weight")
            return kind.gated and asked and self.lambda_region > 0
        weights = (self.lambda_adversarial, self.lambda_region)
        return kind.confidence and any(weight > 0 for weight in weights)


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
    largest_component: AllOrThese = Field(
        False,
        description="keep the largest connected component alone of each organ (true), of none, or "
        "of those in a list; gas can split a rectum",
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

    @field_validator("evaluation")
    @classmethod
    def _pieces_are_of_organs(cls, read: InferenceConfig, info: ValidationInfo) -> InferenceConfig:
        listed, organs = read.largest_component, info.data.get("organs")
        if isinstance(listed, bool) or organs is None:
            return read
        if len(set(listed)) < len(listed) or not set(listed) <= set(organs):
            raise ValueError(
                f"largest_component must be true, false or a list of {', '.join(organs)}, each "
                f"once, not {list(listed)}"
            )
        return read

    def in_one_piece(self, wanted: bool | Sequence[str] | None = None) -> tuple[str, ...]:
        """Organs of which the largest component alone is kept, in the order of the channels.

        Args:
            wanted: All, none or those named; None: as `evaluation.largest_component` says.

        Raises:
            ValueError: One that is named is no organ of the study.
        """
        wanted = self.evaluation.largest_component if wanted is None else wanted
        if isinstance(wanted, bool):
            return self.organ_names if wanted else ()
        if unknown := sorted(set(wanted) - set(self.organs)):
            raise ValueError(
                f"largest_component: no organ of this study: {', '.join(map(repr, unknown))}; its "
                f"organs are {', '.join(self.organ_names)}"
            )
        return tuple(organ for organ in self.organ_names if organ in wanted)

    @property
    def classes(self) -> int:
        """Organs and background."""
        return len(self.organs) + 1

    @property
    def organ_names(self) -> tuple[str, ...]:
        """In the order of the networks' channels 1, 2, ..."""
        return tuple(sorted(self.organs, key=self.organs.__getitem__))
