"""A study's state on disk: safetensors and JSON, each file whole or not there.

What has to be of one round is in one file: weights and what is known of them cannot be mixed.
"""

import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from protocol.messages import SiteFacts
from protocol.study import StudyProtocol
from protocol.weights import Weights
from server.record import RoundRecord, StudyRecord

MODEL_FILE = "model.safetensors"
PROTOCOL_FILE = "protocol.json"
CHECKPOINT_FILE = "checkpoint.safetensors"

_Facts = TypeAdapter(dict[str, SiteFacts])
_Rounds = TypeAdapter(list[RoundRecord])


class CheckpointError(ValueError):
    """A saved state that cannot be read, or is not of this study."""


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Sorted and indented, put in place of the old file at once."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    _replace(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def save_model(
    folder: Path,
    protocol: StudyProtocol,
    segmenter: Weights,
    confidence: Weights | None,
    facts: Mapping[str, Any],
) -> None:
    """Everything that inference needs: weights, the protocol, and where they come from.

    The protocol is the same for all of a study; the weights of both networks and the facts, such
    as the round, are one file.  `model.json` repeats the facts for the reader.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {**facts, "protocol_sha256": protocol.digest}
    write_json(folder / PROTOCOL_FILE, protocol.model_dump(mode="json"))
    tensors = _prefixed(segmenter=segmenter, confidence=confidence)
    _save_tensors(folder / MODEL_FILE, tensors, {"facts": json.dumps(facts)})
    write_json(folder / "model.json", facts)


def load_model(folder: Path) -> tuple[StudyProtocol, Weights, Weights | None]:
    """A saved model back.

    Raises:
        FileNotFoundError: If the folder holds no model.
        CheckpointError: If its files are damaged or of two studies.
    """
    for name in (PROTOCOL_FILE, MODEL_FILE):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder}: has no {name}; name a folder such as model/best")
    try:
        protocol = StudyProtocol.model_validate_json((folder / PROTOCOL_FILE).read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{folder / PROTOCOL_FILE}: is not a protocol: {error}") from None
    tensors, texts = _load_tensors(folder / MODEL_FILE)
    if f'"{protocol.digest}"' not in texts.get("facts", ""):
        raise CheckpointError(
            f"{folder}: {MODEL_FILE} and {PROTOCOL_FILE} are of two studies; copy both from one"
        )
    return protocol, _part(tensors, "segmenter") or {}, _part(tensors, "confidence")


def save_checkpoint(folder: Path, record: StudyRecord) -> None:
    """All that a resumed study needs, as one file in place of the last one."""
    tensors = _prefixed(
        segmenter=record.segmenter,
        confidence=record.confidence,
        best_segmenter=record.best_segmenter,
        best_confidence=record.best_confidence,
    )
    texts = {
        "run": record.run,
        "protocol": record.protocol.canonical_json(),
        "facts": _Facts.dump_json(record.facts).decode(),
        "rounds": _Rounds.dump_json(record.rounds).decode(),
        "attention": json.dumps(record.attention),
        "best": json.dumps({"round": record.best_round, "dsc": record.best_dsc}),
    }
    _save_tensors(folder / CHECKPOINT_FILE, tensors, texts)


def load_checkpoint(folder: Path) -> StudyRecord | None:
    """The study as it was after its last complete round; None if none was completed.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    tensors, texts = _load_tensors(path)
    try:
        best = json.loads(texts["best"])
        return StudyRecord(
            run=texts["run"],
            protocol=StudyProtocol.model_validate_json(texts["protocol"]),
            facts=_Facts.validate_json(texts["facts"]),
            segmenter=_part(tensors, "segmenter") or {},
            confidence=_part(tensors, "confidence"),
            attention=json.loads(texts["attention"]),
            rounds=_Rounds.validate_json(texts["rounds"]),
            best_round=best["round"],
            best_dsc=best["dsc"],
            best_segmenter=_part(tensors, "best_segmenter"),
            best_confidence=_part(tensors, "best_confidence"),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a checkpoint of this version: {error}") from None


def _prefixed(**parts: Weights | None) -> Weights:
    return {
        f"{part}/{name}": tensor
        for part, weights in parts.items()
        for name, tensor in (weights or {}).items()
    }


def _part(tensors: Weights, part: str) -> Weights | None:
    prefix = f"{part}/"
    found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return found or None


def _save_tensors(path: Path, tensors: Weights, texts: dict[str, str]) -> None:
    # safetensors refuses tensors that share memory, as the best model's do with the last one's.
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    _replace(path, lambda draft: save_file(own, draft, metadata=texts))


def _load_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
        return load_file(path), texts
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Written beside, brought to the disk, then put in place at once."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
