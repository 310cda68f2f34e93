"""Named starting points of a study.  A preset sets values; it has no code of its own."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from asdnet_models.config import MethodConfig
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from protocol.config.study import (
    AggregationConfig,
    EvaluationConfig,
    StudyProtocol,
    merged,
)
from protocol.config.training import RampConfig, TrainingConfig

PresetName = Literal["smoke", "quick", "planned", "paper"]
PRESET_NAMES: tuple[PresetName, ...] = get_args(PresetName)

# The paper's form is the default of every field, so that a protocol without a word is the paper.
_PAPER = StudyProtocol(name="paper")

# The form of D whose map separates right from wrong voxels best, and better than the maximum
# softmax: docs/results/tables/README.md.  Sections of a protocol, and what they change.
INFORMED: Mapping[str, Mapping[str, Any]] = {
    "confidence": {
        "width": 8,
        "input": "maps+image",
        "target": "correctness",
        "prior": "softmax",
    },
    "method": {"gamma": 0.9},
    "training": {"lr_confidence": 2e-3},
}

# What trains well in minutes on two cores; docs/results/index.md has the comparison.
_QUICK_AS_PAPER = StudyProtocol(
    name="quick",
    spacing_mm=(4.0, 4.0, 4.0),
    patch_voxels=(48, 40, 24),
    network=NetworkConfig(width=8, kernel=3),
    confidence=ConfidenceConfig(width=4),
    # Cross-entropy beside Dice, and 40 rounds, find more of the rectum: docs/results/index.md.
    method=MethodConfig(
        class_weight="uniform", sample_attention="off", gamma=0.5, supervised="dice+ce"
    ),
    training=TrainingConfig(
        rounds=40,
        local_steps=10,
        batch_size=2,
        # A few hundred steps are too few for random views to pay: docs/results/index.md.
        views="none",
        lr_segmenter=3e-3,
        lr_decay=0.3,
        lr_decay_at=(0.6, 0.85),
        ramp=RampConfig(adversarial_start=0.2, region_start=0.4, length=0.2),
    ),
    # The same windows as the paper's but for those in air, which cost time and say nothing.
    evaluation=EvaluationConfig(every_rounds=10, overlap=0.25, windows="body"),
)

_SMOKE_AS_PAPER = StudyProtocol(
    name="smoke",
    spacing_mm=(8.0, 8.0, 8.0),
    patch_voxels=(24, 24, 16),
    network=NetworkConfig(width=4, kernel=3),
    confidence=ConfidenceConfig(width=4),
    method=_QUICK_AS_PAPER.method,
    training=_QUICK_AS_PAPER.training.model_copy(update={"rounds": 4, "local_steps": 3}),
    aggregation=AggregationConfig(),
    evaluation=EvaluationConfig(every_rounds=2, overlap=0.25, windows="body"),
)

# The recipe of studies that are planned from the sites' data; the plan adds the grid, the networks'
# strides and kernels, and how long to train.
_PLANNED_AS_PAPER = merged(
    _QUICK_AS_PAPER,
    {
        "name": "planned",
        # On hearts .77 against SVNet's .76 in .7 of its time, on hippocampus alike (one seed):
        # docs/results/recipe.md.
        "network": {"architecture": "unet"},
        "training": {
            "rounds": 20,
            "views": "strong",
            "lr_segmenter": 2e-3,
            "lr_schedule": "polynomial",
            # What the other schedule reads, as the paper has it.
            "lr_decay": _PAPER.training.lr_decay,
            "lr_decay_at": _PAPER.training.lr_decay_at,
            "weight_decay": 1e-5,
            "clip_norm": 12.0,
            "ramp": {"adversarial_start": 0.3, "region_start": 0.5},
        },
    },
)

_AS_PAPER: dict[PresetName, StudyProtocol] = {
    "smoke": _SMOKE_AS_PAPER,
    "quick": _QUICK_AS_PAPER,
    "planned": _PLANNED_AS_PAPER,
    "paper": _PAPER,
}


def preset(name: PresetName) -> StudyProtocol:
    """The protocol of that name: `paper` with the paper's confidence network, others informed."""
    return as_paper(name) if name == "paper" else merged(as_paper(name), INFORMED)


def as_paper(name: PresetName) -> StudyProtocol:
    """The preset with the paper's form of D, from which the rows of the paper's tables start."""
    return _AS_PAPER[name]
