"""A study's state on disk: safetensors and JSON, each file whole or not there."""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from protocol.messages import Weights
from protocol.study import StudyProtocol

SEGMENTER_FILE = "segmenter.safetensors"
CONFIDENCE_FILE = "confidence.safetensors"
PROTOCOL_FILE = "protocol.json"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Sorted and indented, put in place of the old file at once."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def save_model(
    folder: Path,
    protocol: StudyProtocol,
    segmenter: Weights,
    confidence: Weights | None,
    facts: Mapping[str, Any],
) -> None:
    """Everything that inference needs: weights, the protocol, and where they come from.

    Each file replaces its predecessor at once; `model.json` is written last and says which
    round the others are of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save_weights(folder / SEGMENTER_FILE, segmenter)
    if confidence is not None:
        _save_weights(folder / CONFIDENCE_FILE, confidence)
    else:
        (folder / CONFIDENCE_FILE).unlink(missing_ok=True)
    write_json(folder / PROTOCOL_FILE, protocol.model_dump(mode="json"))
    write_json(folder / "model.json", facts)


def load_model(folder: Path) -> tuple[StudyProtocol, Weights, Weights | None]:
    """A saved model back.

    Raises:
        FileNotFoundError: If the folder holds no model.
        pydantic.ValidationError: If protocol.json is not a protocol.
    """
    for name in (PROTOCOL_FILE, SEGMENTER_FILE):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder}: has no {name}; name a folder such as model/best")
    text = (folder / PROTOCOL_FILE).read_text(encoding="utf-8")
    confidence = folder / CONFIDENCE_FILE
    return (
        StudyProtocol.model_validate_json(text),
        load_file(folder / SEGMENTER_FILE),
        load_file(confidence) if confidence.exists() else None,
    )


def _save_weights(path: Path, weights: Weights) -> None:
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        save_file(weights, draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
