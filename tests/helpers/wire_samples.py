"""One message of each kind, of a small study."""

import torch
from flwr.app import RecordDict
from made_scores import MISSED, seen, sums_of
from torch import Tensor

from asdnet_models.reliability import BINS, Reliability
from asdnet_models.reliability import SCORES as SCORES_OF_MAPS
from asdnet_models.sums import ScoreSum, SumCount
from protocol.config.study import StudyProtocol
from protocol.wire.messages import (
    pack_training,
)
from protocol.wire.reports import LOSSES, EvaluationReport, ExpectedSums, SiteFacts, TrainReport

PROTOCOL = StudyProtocol(organs={"prostate": 2, "bladder": 1}, seed=5)
RUN = "tiny-1"
ORGANS = ("bladder", "prostate")
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -0.5])}
FACTS = SiteFacts(
    labelled=8,
    unlabelled=5,
    validation=2,
    test=1,
    box=tuple(SumCount(sum=edge / 2, count=8) for edge in range(6)),
    annotated={"bladder": 3, "prostate": 8},
)
TRAINED = TrainReport(
    labelled=8,
    unlabelled=5,
    steps=50,
    seconds=1.5,
    losses={name: SumCount(sum=index + 0.25, count=50) for index, name in enumerate(LOSSES)},
    attention=SumCount(sum=12.5, count=100),
    twin=SumCount(sum=-0.05, count=2),
    trusted={
        "background": SumCount(sum=300, count=400),
        "bladder": SumCount(sum=50, count=60),
        "prostate": SumCount(sum=10, count=40),
    },
)
SCORES = {organ: sums_of(seen(0.5, 0.5), seen(0.75, 0.75), MISSED) for organ in ORGANS}
EVALUATED = EvaluationReport(
    seconds=2.5,
    cases={"validation": 3, "test": 3},
    scores={"validation": SCORES, "test": {organ: sums_of(0.5) for organ in ORGANS}},
    reliability={
        "confidence": Reliability(right=tuple(range(BINS)), wrong=(7,) * BINS),
        "softmax": Reliability(right=(1,) * BINS),
    },
    expected={
        # Of the three DSC .5, .75 and 0; of unlabelled scans beside them for the round trip alone.
        score: {
            organ: ExpectedSums(
                validation=ScoreSum.of((0.6, 0.75, 0.2)),
                products=0.6 * 0.5 + 0.75 * 0.75,
                unlabelled=ScoreSum.of((0.9, 0.8, 0.7)),
            )
            for organ in ORGANS
        }
        for score in SCORES_OF_MAPS
    },
)


def trained(confidence: dict[str, Tensor] | None = None) -> RecordDict:
    return pack_training("A", TRAINED, PROTOCOL, WEIGHTS, confidence)
