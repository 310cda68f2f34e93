"""One site's scores and one round, made by hand, for what shows or keeps them."""

from made_scores import MISSED, seen, sums_of

from asdnet_models.sums import OrganSums, SumCount
from protocol.config.schedule import plan_round
from protocol.config.study import StudyProtocol
from protocol.wire.reports import EvaluationReport, TrainReport
from server.rounds.record import RoundRecord


def evaluation() -> EvaluationReport:
    scores = {
        "ball": sums_of(seen(0.8, 1.0), seen(0.9, 2.0)),
        "rod": sums_of(seen(0.5, 3.0), MISSED),
    }
    return EvaluationReport(
        seconds=1.0,
        cases={"validation": 0, "test": 2},
        scores={"validation": dict.fromkeys(scores, OrganSums()), "test": scores},
    )


def round_record(protocol: StudyProtocol, number: int) -> RoundRecord:
    report = TrainReport(
        labelled=3,
        unlabelled=1,
        steps=2,
        seconds=1.5,
        losses={"dice": SumCount(sum=1.0, count=2.0 * number), "region": SumCount()},
        trusted={"ball": SumCount(sum=1.0, count=4.0), "rod": SumCount()},
    )
    return RoundRecord(
        plan=plan_round(protocol, number),
        seconds=2.5,
        bytes_down={"A": 70, "B": 70},
        bytes_up={"A": 60},
        reports={"A": report},
        left_out={"B": "LayoutError"},
        finished_at=1.7e9 + number,
        evaluation={"A": evaluation()} if number == 2 else None,
        validation_dsc=0.7 if number == 2 else None,
        norms={"A": {"segmenter": 2.0 * number, "confidence": 0.5}},
        clipped={"A": {"segmenter": 0.25}} if number == 2 else {},
    )
