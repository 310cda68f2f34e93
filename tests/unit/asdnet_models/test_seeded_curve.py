"""A stored loss curve: a refactor that moves a number shows here.

Where a change of the numbers is meant, say so under "Numerics" in CHANGELOG.md and store the
curve that the failing test prints.
"""

import pytest
import torch

from asdnet_models.config import MethodConfig
from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.methods.common import Networks
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.config.training import RampConfig, TrainingConfig

ROUNDS = 6
COLUMNS = ("total", "dice", "adversarial", "region", "confidence")
PROTOCOL = StudyProtocol(
    seed=11,
    organs={"bladder": 1, "prostate": 2},
    patch_voxels=(16, 16, 16),
    network=NetworkConfig(width=4, kernel=3),
    confidence=ConfidenceConfig(width=4),
    method=MethodConfig(class_weight="inverse"),
    training=TrainingConfig(
        rounds=ROUNDS,
        lr_segmenter=3e-3,
        lr_confidence=1e-3,
        ramp=RampConfig(adversarial_start=0.1, region_start=0.3, length=0.4),
    ),
)

# One row a step (a round of one step each); None where a term rests.
CURVE: list[tuple[float | None, ...]] = [
    (0.665798, 0.800507, None, None, 1.364236),
    (0.371821, 0.743299, 0.666392, None, 1.346243),
    (0.398756, 0.707344, 0.663735, 0.683968, 1.335866),
    (0.509202, 0.673731, 0.653842, 0.698923, 1.330622),
    (0.669355, 0.637662, 0.638268, 0.705284, 1.328097),
    (0.682931, 0.599958, 0.618617, 0.729059, 1.327071),
]


def run_curve() -> list[tuple[float | None, ...]]:
    generator = torch.Generator().manual_seed(PROTOCOL.seed)
    segmenter, confidence = build_segmenter(PROTOCOL), build_confidence(PROTOCOL)
    training = PROTOCOL.training
    nets = Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.Adam(
            segmenter.parameters(), training.lr_segmenter, weight_decay=training.weight_decay
        ),
        confidence=confidence,
        confidence_optimiser=torch.optim.Adam(
            confidence.parameters(), training.lr_confidence, weight_decay=training.weight_decay
        ),
    )
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.long)
    label[:, :, 3:9, 2:10, 4:12] = 1
    label[1, :, 10:14, 3:9, 4:12] = 2
    curve = []
    for number in range(1, ROUNDS + 1):
        noise = torch.randn(4, 1, 16, 16, 16, generator=generator)
        labelled = LabelledBatch(image=label + 0.3 * noise[:2], label=label)
        unlabelled = label.flip(2) + 0.3 * noise[2:]
        record = train_step(
            nets, PROTOCOL.method, plan_round(PROTOCOL, number), labelled, unlabelled
        )
        curve.append(tuple(record.losses.get(name) for name in COLUMNS))
    return curve


def test_the_curve_is_the_stored_one() -> None:
    found = run_curve()
    printed = "\n".join(
        "    (" + ", ".join("None" if v is None else f"{v:.6f}" for v in row) + "),"
        for row in found
    )
    assert len(found) == len(CURVE), printed
    for row, stored in zip(found, CURVE, strict=True):
        assert row == tuple(v if v is None else pytest.approx(v, rel=1e-4) for v in stored), printed


def test_the_same_seed_gives_the_same_curve() -> None:
    assert run_curve() == run_curve()
