"""A study's checkpoint: one file, written atomically.

Weights and record of a round are in one file, so that they cannot be mixed up.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from asdnet_models.model_files import ModelFileError, load_tensors, part, prefixed
from protocol.agreement.average import Average
from protocol.agreement.statement_store import KeptStatement
from protocol.config.study import StudyProtocol
from protocol.model_io import save_tensors
from protocol.wire.messages import CONFIDENCE, SEGMENTER
from protocol.wire.reports import SiteFacts
from protocol.wire.weights import Weights
from server.rounds.record import RoundRecord, StudyRecord

CHECKPOINT_FILE = "checkpoint.safetensors"

_Facts = TypeAdapter(dict[str, SiteFacts])
_Statements = TypeAdapter(list[KeptStatement])
_Rounds = TypeAdapter(list[RoundRecord])


class CheckpointError(ModelFileError):
    """A saved state that cannot be read, or is not of this study."""


def save_checkpoint(folder: Path, record: StudyRecord) -> None:
    """All that a resumed study needs, as one file, which replaces the last one."""
    tensors = prefixed(
        segmenter=record.segmenter,
        confidence=record.confidence,
        average=record.average.weights if record.average else None,
        best_segmenter=record.best_segmenter,
        best_confidence=record.best_confidence,
        before_segmenter=record.before.get(SEGMENTER),
        before_confidence=record.before.get(CONFIDENCE),
    )
    texts = {
        "run": record.run,
        "protocol": record.protocol.canonical_json(),
        "facts": _Facts.dump_json(record.facts).decode(),
        "rounds": _Rounds.dump_json(record.rounds).decode(),
        "statements": _Statements.dump_json(record.statements).decode(),
        "attention": json.dumps(record.attention),
        "average": json.dumps(_average_facts(record.average)),
        "best": json.dumps({"round": record.best_round, "dsc": record.best_dsc}),
        "silence": json.dumps(
            {"missed": record.missed, "silent": record.silent, "again": record.again}
        ),
    }
    save_tensors(folder / CHECKPOINT_FILE, tensors, texts)


def load_checkpoint(folder: Path) -> StudyRecord | None:
    """The study as it was after its last complete round; None if none was completed.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        tensors, texts = load_tensors(path)
    except ModelFileError as error:
        raise CheckpointError(str(error)) from None
    try:
        best = json.loads(texts["best"])
        silence = json.loads(texts.get("silence", '{"missed": {}, "silent": {}}'))
        return StudyRecord(
            run=texts["run"],
            protocol=StudyProtocol.model_validate_json(texts["protocol"]),
            facts=_Facts.validate_json(texts["facts"]),
            segmenter=part(tensors, "segmenter") or {},
            confidence=part(tensors, "confidence"),
            average=_average(part(tensors, "average"), json.loads(texts.get("average", "{}"))),
            attention=json.loads(texts["attention"]),
            rounds=_Rounds.validate_json(texts["rounds"]),
            statements=_Statements.validate_json(texts["statements"]),
            before={n: w for n in (SEGMENTER, CONFIDENCE) if (w := part(tensors, f"before_{n}"))},
            best_round=best["round"],
            best_dsc=best["dsc"],
            best_segmenter=part(tensors, "best_segmenter"),
            best_confidence=part(tensors, "best_confidence"),
            missed=silence["missed"],
            silent=silence["silent"],
            again=silence.get("again", {}),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint of this version: {error}") from None


def _average_facts(average: Average | None) -> dict[str, float]:
    return {} if average is None else {"round": average.round, "mass": average.mass}


def _average(weights: Weights | None, facts: Mapping[str, float]) -> Average | None:
    if weights is None:
        return None
    return Average(weights=weights, round=int(facts["round"]), mass=facts["mass"])
