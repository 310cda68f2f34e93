"""A trained model as files, for the centre that saves it and the hospital that uses it.

safetensors and JSON, no pickle: reading a model runs no code.  Each file is whole or not there,
and what has to be of one round is in one file.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from protocol.config.study import StudyProtocol
from protocol.files import atomic_file, write_json
from protocol.wire.weights import Weights

MODEL_FILE = "model.safetensors"
PROTOCOL_FILE = "protocol.json"


class ModelFileError(ValueError):
    """Saved weights that cannot be read, or are not of their study."""


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
    for name in (PROTOCOL_FILE, MODEL_FILE):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder}: has no {name}; name a folder such as model/best")
    try:
        protocol = StudyProtocol.model_validate_json((folder / PROTOCOL_FILE).read_bytes())
    except ValidationError as error:
        raise ModelFileError(f"{folder / PROTOCOL_FILE}: is not a protocol: {error}") from None
    tensors, texts = load_tensors(folder / MODEL_FILE)
    if f'"{saved_protocol_digest(folder)}"' not in texts.get("facts", ""):
        raise ModelFileError(
            f"{folder}: {MODEL_FILE} and {PROTOCOL_FILE} are of two studies; copy both from one"
        )
    return protocol, part(tensors, "segmenter") or {}, part(tensors, "confidence")


def saved_protocol_digest(folder: Path) -> str:
    """The digest of a saved protocol as it was when it was saved.

    Taken from the file: a later version of the protocol's form, read back, has further settings.
    """
    content = json.loads((folder / PROTOCOL_FILE).read_bytes())
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def model_digest(folder: Path) -> str:
    """SHA-256 of the file of the weights, as `sha256sum` prints it."""
    with (folder / MODEL_FILE).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prefixed(**parts: Weights | None) -> Weights:
    """Several networks' weights as one set, each name behind that of its network."""
    return {
        f"{network}/{name}": tensor
        for network, weights in parts.items()
        for name, tensor in (weights or {}).items()
    }


def part(tensors: Weights, network: str) -> Weights | None:
    """One network's weights out of what `prefixed` made; None where it has none."""
    prefix = f"{network}/"
    found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return found or None


def save_tensors(path: Path, tensors: Weights, texts: dict[str, str]) -> None:
    """One safetensors file with these texts in its header, put in place of the old one at once."""
    # safetensors refuses tensors that share memory, as the best model's do with the last one's.
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    with atomic_file(path) as draft:
        save_file(own, draft, metadata=texts)


def load_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """Tensors and texts of one safetensors file.

    Raises:
        ModelFileError: If it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
        return load_file(path), texts
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: cannot be read: {error}") from None
