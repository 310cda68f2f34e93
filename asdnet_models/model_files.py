"""Reads a trained model's files: the weights of both networks, and their study.

safetensors and JSON, no pickle: reading a model runs no code.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

MODEL_FILE = "model.safetensors"
PROTOCOL_FILE = "protocol.json"


class ModelFileError(ValueError):
    """Saved weights that cannot be read, or are not of their study."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """What a model's folder holds.

    Attributes:
        folder: Where it is.
        protocol: The study's protocol as it was saved; a later version knows further settings.
        protocol_sha256: Of its canonical JSON.
        segmenter: Weights of S.
        confidence: Weights of D; None where the study trained none.
    """

    folder: Path
    protocol: Mapping[str, Any]
    protocol_sha256: str
    segmenter: dict[str, Tensor]
    confidence: dict[str, Tensor] | None


def read_model_files(folder: Path) -> ModelFiles:
    """A saved model.

    Raises:
        FileNotFoundError: If the folder holds no model.
        ModelFileError: If its files are damaged or of two studies.
    """
    for name in (PROTOCOL_FILE, MODEL_FILE):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder}: has no {name}; name a folder such as model/best")
    try:
        protocol = json.loads((folder / PROTOCOL_FILE).read_bytes())
    except ValueError as error:
        raise ModelFileError(f"{folder / PROTOCOL_FILE}: is not a protocol: {error}") from None
    if not isinstance(protocol, dict):
        raise ModelFileError(f"{folder / PROTOCOL_FILE}: is not a protocol; copy it again")
    canonical = json.dumps(protocol, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    tensors, texts = load_tensors(folder / MODEL_FILE)
    if f'"{digest}"' not in texts.get("facts", ""):
        raise ModelFileError(
            f"{folder}: {MODEL_FILE} and {PROTOCOL_FILE} are of two studies; copy both from one"
        )
    undefined = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if undefined:
        raise ModelFileError(
            f"{folder / MODEL_FILE}: {undefined[0]} is NaN or infinite ({len(undefined)} tensors);"
            " copy the whole folder again"
        )
    return ModelFiles(
        folder=folder,
        protocol=protocol,
        protocol_sha256=digest,
        segmenter=part(tensors, "segmenter") or {},
        confidence=part(tensors, "confidence"),
    )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
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


def prefixed(**parts: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Several networks' weights as one set, each name behind that of its network."""
    return {
        f"{network}/{name}": tensor
        for network, weights in parts.items()
        for name, tensor in (weights or {}).items()
    }


def part(tensors: Mapping[str, Tensor], network: str) -> dict[str, Tensor] | None:
    """One network's weights out of what `prefixed` made; None where it has none."""
    prefix = f"{network}/"
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return weights or None
