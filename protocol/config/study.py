"""What a study agrees on: everything that changes the science, with one default each.

The server owns the protocol, sends it whole with every round and records it in MLflow with its
hash.  A site never fills in a value of its own.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from asdnet_models.catalogue import METHODS, NETWORKS, check_name
from asdnet_models.organs import check_organs

Fraction = Annotated[float, Field(ge=0, le=1)]
Windows = Literal["all", "body", "organs"]
Model = TypeVar("Model", bound=BaseModel)


class ProtocolError(ValueError):
    """A protocol or site file that breaks a rule; lists every mistake at once."""


class Frozen(BaseModel):
    """Immutable, and an unknown key is an error rather than a silently ignored wish."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(Frozen):
    """The segmentation network S (method: Nie et al. 2018; V-Net: Milletari et al. 2016)."""

    architecture: str = Field("svnet", description="a name of asdnet_models/catalogue.py")
    width: PositiveInt = Field(16, description="channels at full resolution")
    kernel: Literal[3, 5] = Field(5, description="edge of the convolution kernels, voxels")
    norm: Literal["group", "batch"] = Field(
        "group", description="batch statistics do not average well over sites"
    )

    @field_validator("architecture")
    @classmethod
    def _architecture_is_known(cls, name: str) -> str:
        return check_name(name, NETWORKS)

    @property
    def stride(self) -> int:
        """Every patch edge must be a multiple of this many voxels."""
        return NETWORKS[self.architecture].stride


class ConfidenceConfig(Frozen):
    """The confidence network D.  The defaults are the paper's form."""

    architecture: Literal["fcn", "cnn"] = Field(
        "fcn", description="one logit a voxel, or one a patch (row AttSVNet+CNN)"
    )
    width: PositiveInt = Field(16, description="channels after the first convolution")
    input: Literal["maps", "maps+image"] = Field(
        "maps", description="what D sees: class maps alone, or the scan beside them"
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

    @property
    def stride(self) -> int:
        """Three stride-2 convolutions."""
        return 8


class MethodConfig(Frozen):
    """Eq. 1 to 7.  Every ablation of the paper is a setting here, never a copy of the code."""

    name: str = Field("asdnet", description="a name of asdnet_models/catalogue.py")
    class_weight: Literal["inverse-square", "inverse", "uniform"] = Field(
        "inverse-square", description="pi_c of Eq. 1 and 6 as a power of the organ's volume"
    )
    sample_attention: Literal["literal", "normalised", "off"] = Field(
        "literal", description="Eq. 2 as printed, divided by its running mean, or left out"
    )
    beta: float = Field(2.0, ge=0, le=5, description="exponent of Eq. 2")
    lambda_adversarial: float = Field(0.03, ge=0, description="lambda_1 of Eq. 7")
    lambda_region: float = Field(
        0.3, ge=0, description="lambda_2 of Eq. 7; semi-fcn: weight of the pseudo-labels"
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
        description="semi-fcn: when sites label their unlabelled scans anew, of all rounds",
    )
    lambda_embedding: float = Field(0.1, ge=0, description="semi-embed: weight of the embedding")
    embedding_margin: float = Field(0.5, gt=0, description="semi-embed: margin between classes")
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


class RampConfig(Frozen):
    """When Eq. 5 and 6 begin, as fractions of the study's rounds (semi: Hung et al. 2018)."""

    adversarial_start: Fraction = Field(0.05, description="where Eq. 5 begins")
    region_start: Fraction = Field(
        0.25, description="where Eq. 6 begins; semi-embed: its embedding loss"
    )
    length: Fraction = Field(0.15, description="how long a term takes to reach its full weight")


class TrainingConfig(Frozen):
    """One site's share of a round, and how the rounds are scheduled."""

    rounds: PositiveInt = Field(60, description="rounds of the study")
    local_steps: PositiveInt = Field(50, description="optimiser steps a site and round")
    batch_size: PositiveInt = Field(2, description="labelled patches a step; as many unlabelled")
    lr_segmenter: PositiveFloat = Field(1e-3, description="Adam's learning rate of S")
    lr_confidence: PositiveFloat = Field(1e-4, description="Adam's learning rate of D")
    lr_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="factor on both rates at each decay point"
    )
    lr_decay_at: tuple[Fraction, ...] = Field(
        (1 / 3, 2 / 3), description="decay points, as fractions of the study's rounds"
    )
    weight_decay: float = Field(1e-4, ge=0, description="Adam's weight decay, of both networks")
    ramp: RampConfig = Field(RampConfig(), description="when the unsupervised terms begin")
    organ_patch_fraction: Fraction = Field(
        2 / 3, description="patches centred on an organ drawn uniformly; the rest lie anywhere"
    )
    augment: bool = Field(
        True, description="flip, turn, scale, gamma and noise of training patches"
    )
    proximal_mu: float = Field(0.01, ge=0, description="pull to the global S at label-free sites")


class AggregationConfig(Frozen):
    """FedAvg of the two networks, each with its own weights."""

    unlabelled_weight: Fraction = Field(
        0.3, description="omega: what an unlabelled case weighs for S once Eq. 6 is on"
    )
    max_site_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="cap on one site's share of S"
    )
    max_norm_ratio: Annotated[float, Field(gt=1)] = Field(
        3.0, description="an update over this many times the round's median norm is left out"
    )
    min_sites: PositiveInt = Field(2, description="sites that a round needs")
    round_timeout_s: PositiveFloat = Field(
        3600.0, description="how long a round waits for the sites' replies"
    )
    join_timeout_s: PositiveFloat = Field(
        600.0, description="how long the centre waits for enough sites, at first and later"
    )
    absence_s: PositiveFloat = Field(
        300.0, description="a site that is offline for so long in a round is waited for no longer"
    )


class WireConfig(Frozen):
    """How weights travel; sums are in float64 whatever the format."""

    format: Literal["fp32", "bf16", "int8"] = Field(
        "fp32", description="bf16 and int8: differences up, rounded, what is left stays at the site"
    )
    compress: Annotated[int, Field(ge=0, le=19)] = Field(
        0, description="level of zstd; 0: as they are"
    )

    @property
    def plain(self) -> bool:
        """Weights as one safetensors file a network, which says its own names and shapes."""
        return self.format == "fp32" and not self.compress


class EvaluationConfig(Frozen):
    """Sliding-window inference and when the sites score their cases."""

    every_rounds: PositiveInt = Field(
        5, description="sites score their validation cases every so many rounds"
    )
    overlap: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="overlap of neighbouring windows, as a fraction of the patch"
    )
    windows: Windows = Field(
        "all",
        description="of a scan: all (the paper), those that hold any of the body, or of these "
        "first as few as cover it and then all those that may hold an organ",
    )
    largest_component: bool = Field(
        False, description="keep one component an organ; gas can split a rectum"
    )


class ContractConfig(Frozen):
    """What the study demands of every site's data."""

    modality: Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")] | None = Field(
        "MR", description="DICOM modality of the scans; other formats do not say it; None: any"
    )
    max_spacing_mm: PositiveFloat | None = Field(
        None, description="the longest edge that a scan's voxels may have"
    )
    min_extent_mm: PositiveFloat | None = Field(
        None, description="the shortest edge that a scan may have"
    )
    min_labelled: NonNegativeInt = Field(0, description="labelled training cases of each site")
    max_refused_share: Fraction = Field(
        0.0, description="share of a site's cases that may break a rule; they are left out"
    )
    unmet: Literal["stop", "leave-out"] = Field(
        "stop", description="what a site that does not meet this does to a study before round 1"
    )

    def tolerates(self, refused: int, used: int) -> bool:
        """Whether so many of a site's cases may be refused."""
        return refused <= self.max_refused_share * (refused + used)


class StudyProtocol(Frozen):
    """The whole agreement of one study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        "asdnet", description="the study's name, in MLflow and in reports"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        1, description="of the first weights and, with site and round, of every random draw"
    )
    organs: dict[str, int] = Field(
        {"bladder": 1, "prostate": 2, "rectum": 3},
        description="by organ, its value in label maps; 0 is the background",
    )
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (1.0, 1.0, 1.0), description="voxel size that every scan is resampled to: x, y, z"
    )
    network: NetworkConfig = Field(NetworkConfig(), description="the segmentation network S")
    confidence: ConfidenceConfig = Field(ConfidenceConfig(), description="the confidence network D")
    # After the networks, whose strides it must fit.
    patch_voxels: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (64, 64, 16), description="size of the training patch and of the inference window: x, y, z"
    )
    # After D, which must give what the method reads.
    method: MethodConfig = Field(
        MethodConfig(), validate_default=True, description="the losses, Eq. 1 to 7"
    )
    training: TrainingConfig = Field(TrainingConfig(), description="a site's share of a round")
    aggregation: AggregationConfig = Field(
        AggregationConfig(), description="how the centre averages the sites' weights"
    )
    wire: WireConfig = Field(WireConfig(), description="how weights travel")
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="inference, and when the sites score their cases"
    )
    contract: ContractConfig = Field(
        ContractConfig(), description="what every site's data must meet"
    )

    @field_validator("organs")
    @classmethod
    def _organs_are_lawful(cls, organs: dict[str, int]) -> dict[str, int]:
        return check_organs(organs)

    @field_validator("patch_voxels")
    @classmethod
    def _patch_fits_the_strides(
        cls, patch: tuple[int, int, int], info: ValidationInfo
    ) -> tuple[int, int, int]:
        networks = (info.data.get("network"), info.data.get("confidence"))
        stride = max((network.stride for network in networks if network), default=1)
        if any(edge % stride for edge in patch):
            lower = tuple(max(stride, edge - edge % stride) for edge in patch)
            raise ValueError(
                f"must be multiples of {stride} (the networks halve "
                f"{stride.bit_length() - 1} times), not {patch}; {lower} would do"
            )
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

    def canonical_json(self) -> str:
        """Sorted and compact, so that equal protocols are equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()


def merged(protocol: StudyProtocol, changes: Mapping[str, Any]) -> StudyProtocol:
    """The protocol with these changes, at any depth: one start of a ramp leaves the other alone.

    Raises:
        pydantic.ValidationError: If the changed protocol breaks a rule.
    """
    return StudyProtocol.model_validate(_merged(protocol.model_dump(), changes))


def _merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**content} | {
        key: _merged(content.get(key) or {}, value) if isinstance(value, Mapping) else value
        for key, value in changes.items()
    }


def explain(error: ValidationError, place: str) -> str:
    """All mistakes of one validation, a line each: place, rule, value."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        rule = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            rule = "unknown key; remove it or correct its spelling"
        value = "" if item["type"] == "value_error" else f" (is {item['input']!r})"
        lines.append(f"{place}: {where + ': ' if where else ''}{rule}{value}")
    return "\n".join(lines)


def read_yaml(path: Path, model: type[Model]) -> Model:
    """A model from a YAML file.

    Raises:
        ProtocolError: If the file is missing, is not YAML, or breaks rules of the model; the
            message lists every mistake.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProtocolError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ProtocolError(f"{path}: must hold keys and values, not {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ProtocolError(explain(error, str(path))) from None
