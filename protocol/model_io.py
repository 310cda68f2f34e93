"""Saves and loads trained models, for the centre and the hospitals.

safetensors and JSON, no pickle: reading a model runs no code.  Each file is written atomically,
and what has to be of one round is in one file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import save_file

from asdnet_models.model_files import (
    MODEL_FILE,
    PROTOCOL_FILE,
    ModelFileError,
    ModelFiles,
    prefixed,
    read_model_files,
)
from protocol.config.explanation import explain
from protocol.config.study import StudyProtocol
from protocol.files import atomic_file, write_json
from protocol.wire.weights import Weights


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
    tensors = prefixed(segmenter=segmenter, confidence=confidence)
    save_tensors(folder / MODEL_FILE, tensors, {"facts": json.dumps(facts)})
    write_json(folder / "model.json", facts)


def load_model(folder: Path) -> tuple[StudyProtocol, Weights, Weights | None]:
    """A saved model back: protocol, weights of S, and of D where there is one.

    Raises:
        FileNotFoundError: If the folder holds no model.
        ModelFileError: If its files are damaged or of two studies.
    """
    files = read_model_files(folder)
    return study_of(files), files.segmenter, files.confidence


def study_of(files: ModelFiles) -> StudyProtocol:
    """The protocol of a saved model.

    Raises:
        ModelFileError: If it breaks a rule.
    """
    try:
        return StudyProtocol.model_validate(files.protocol)
    except ValidationError as error:
        path = files.folder / PROTOCOL_FILE
        raise ModelFileError(
            f"{path}: is not a protocol of this version; take the version that saved the model\n"
            f"{explain(error, str(path))}"
        ) from None


def model_digest(folder: Path) -> str:
    """SHA-256 of the file of the weights, as `sha256sum` prints it."""
    with (folder / MODEL_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path: Path, tensors: Weights, texts: dict[str, str]) -> None:
    """One safetensors file with these texts in its header, replaces the old one atomically."""
    # safetensors refuses tensors that share memory, as the best model's do with the last one's.
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    with atomic_file(path) as draft:
        save_file(own, draft, metadata=texts)
