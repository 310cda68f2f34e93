"""The study's protocol: everything that changes the results, with one default each.

The server owns the protocol, sends all of it with every round and records it in MLflow with its
hash.  A site never fills in a value of its own.  What no honest study asks for is refused on both
sides by the bounds here; what this site does not give, by its own limits (limits.py).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from asdnet_models.config import InferenceConfig, ModelConfig
from asdnet_models.fields import Fraction, Frozen
from protocol.config.explanation import explain
from protocol.config.training import Count, TrainingConfig
from protocol.config.yaml_text import EncodingError, load_yaml, read_utf8

Model = TypeVar("Model", bound=BaseModel)
Timeout = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]  # seconds

# A run's name: it names folders at the centre and at the sites.
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class ProtocolError(ValueError):
    """A protocol or site file that breaks a rule; lists every mistake at once."""


Rule = Literal["mean", "median", "trimmed-mean", "geometric-median", "krum", "multi-krum"]


class AggregationConfig(Frozen):
    """How the sites' two networks become one each, with shares of their own."""

    rule: Rule = Field(
        "median",
        description="mean: FedAvg; the others are not moved by a few hostile sites: median or "
        "trimmed mean of each weight, the updates' geometric median, or those that Krum chooses",
    )
    hostile: int = Field(
        0,
        ge=0,
        le=1000,
        description="hostile sites that the rule has to withstand: a study with fewer sites than "
        "it needs for them is not begun; 0: no promise, and rules that must be told assume one",
    )
    unlabelled_weight: Fraction = Field(
        0.3, description="omega: what an unlabelled case weighs for S once Eq. 6 is on"
    )
    max_site_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="cap on one site's share of S, and of D"
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="FedAvgM: so much of the last round's change of the global weights is added "
        "to this round's; 0: FedAvg",
    )
    max_update: float = Field(
        1.0,
        ge=1e-3,  # with less nothing is learnt
        le=1e6,
        description="bound of a round's update of a network: so many times learning rate * steps "
        "in each weight (root mean square); longer ones are shortened to it, at site and centre",
    )
    max_norm_ratio: float = Field(
        3.0,
        gt=1,
        le=1e6,
        description="an update over this many times what is usual is shortened to it: the median "
        "norm of earlier rounds, or of three or more sites of the round if that is larger",
    )
    min_sites: Count = Field(2, description="sites that a round needs")
    round_timeout_s: Timeout = Field(
        3600.0, description="how long a round waits for the sites' replies"
    )
    patience: Annotated[float, Field(ge=0, le=1000)] = Field(
        10.0,
        description="once enough sites have answered, the others are waited for so many times as "
        "long as the slowest of their last five answers took, and 5 minutes at least; never beyond "
        "round_timeout_s; 0: to round_timeout_s",
    )
    join_timeout_s: Timeout = Field(
        600.0, description="how long the centre waits for enough sites, at first and later"
    )
    absence_s: Timeout = Field(
        300.0, description="a site that is offline for so long in a round is waited for no longer"
    )

    @model_validator(mode="after")
    def _the_rule_withstands_hostile_sites(self) -> Self:
        if self.hostile and self.rule == "mean":
            raise ValueError(
                f"hostile must be 0 where rule is 'mean' (one site moves a mean anywhere), not "
                f"{self.hostile}; take 'geometric-median', or another rule"
            )
        return self


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
        """Weights as one safetensors file a network, which has its own names and shapes."""
        return self.format == "fp32" and not self.compress


class EvaluationConfig(InferenceConfig):
    """Inference, and when the sites score their cases."""

    every_rounds: Count = Field(
        5, description="sites score their validation cases every so many rounds"
    )
    best_by: Literal["mean", "worst-site"] = Field(
        "mean",
        description="which model is kept as the best: of the highest validation DSC over sites and "
        "organs, or at the site where it is lowest",
    )
    nsd_tolerance_mm: float = Field(
        2.0,
        gt=0,
        le=1000,
        description="how far a surface may lie from the reference's and still count as met, in "
        "the normalised surface Dice",
    )


class DataRequirements(Frozen):
    """What the study demands of every site's data."""

    modality: Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")] | None = Field(
        "MR", description="DICOM modality of the scans; other formats do not say it; null: any"
    )
    max_spacing_mm: float | None = Field(
        None, gt=0, le=1000, description="the longest edge that a scan's voxels may have"
    )
    min_extent_mm: float | None = Field(
        None, gt=0, le=10_000, description="the shortest edge that a scan may have"
    )
    min_labelled: int = Field(0, ge=0, le=10**6, description="labelled training cases of each site")
    max_refused_share: Fraction = Field(
        0.0, description="share of a site's cases that may break a rule; they are left out"
    )
    unmet: Literal["stop", "leave-out"] = Field(
        "stop", description="what a site that does not meet this does to a study before round 1"
    )

    def tolerates(self, refused: int, used: int) -> bool:
        """Whether so many of a site's cases may be refused."""
        return refused <= self.max_refused_share * (refused + used)


class StudyProtocol(ModelConfig):
    """The protocol of one study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = Field(
        "asdnet", description="the study's name, in MLflow and in reports"
    )
    training: TrainingConfig = Field(TrainingConfig(), description="a site's share of a round")
    aggregation: AggregationConfig = Field(
        AggregationConfig(), description="how the centre averages the sites' weights"
    )
    wire: WireConfig = Field(WireConfig(), description="how weights travel")
    evaluation: EvaluationConfig = Field(
        EvaluationConfig(), description="inference, and when the sites score their cases"
    )
    contract: DataRequirements = Field(
        DataRequirements(), description="what every site's data must meet"
    )

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
    return StudyProtocol.model_validate(merged_content(protocol.model_dump(), changes))


def merged_content(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sections go into sections; anything else replaces what was there."""
    return {**content} | {
        key: merged_content(old, value)
        if isinstance(value, Mapping) and isinstance(old := content.get(key), Mapping)
        else value
        for key, value in changes.items()
    }


def read_yaml(path: Path, model: type[Model]) -> Model:
    """A model from a YAML file.

    Raises:
        ProtocolError: If the file is missing, is not YAML, or breaks rules of the model; the
            message lists every mistake.
    """
    return validated(yaml_content(path), model, path)


def validated(content: Mapping[str, Any], model: type[Model], path: Path) -> Model:
    """A model from what a file holds.

    Raises:
        ProtocolError: With every rule of the model that it breaks.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ProtocolError(explain(error, str(path))) from None


def yaml_content(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ProtocolError: If the file is missing, or is not YAML of that kind.
    """
    try:
        content = load_yaml(read_utf8(path))
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except EncodingError as error:
        raise ProtocolError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise ProtocolError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ProtocolError(f"{path}: must hold keys and values, not {type(content).__name__}")
    return content
