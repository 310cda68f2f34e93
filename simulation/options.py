"""What the commands of the simulation have in common: option values, protocol, errors."""

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

import typer

from asdnet_models.organs import parse_organs
from client.data.errors import ScanError
from client.data.layout import LayoutError
from protocol.config.presets import PresetName, preset
from protocol.config.study import ProtocolError, StudyProtocol, read_yaml
from server.rounds.errors import QuorumError
from simulation.errors import CohortError, SplitError, StudyFolderError

# What a user can mend: told in a line each, without a traceback.
TOLD = (
    CohortError,
    LayoutError,
    OSError,
    ProtocolError,
    QuorumError,
    ScanError,
    SplitError,
    StudyFolderError,
)


class Preset(StrEnum):
    """Presets by name, for the command line."""

    SMOKE = "smoke"
    QUICK = "quick"
    PAPER = "paper"


class Device(StrEnum):
    """Devices by name, for the command line."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def base_protocol(
    name: PresetName,
    study: Path | None,
    organs: dict[str, int] | None,
    *,
    rounds: int | None,
    steps: int | None,
    seed: int | None,
    start: Callable[[PresetName], StudyProtocol] = preset,
) -> StudyProtocol:
    """The preset or the study's file, with what the command line says instead.

    Args:
        start: What a preset's name stands for.

    Raises:
        ProtocolError: If the file breaks a rule.
    """
    base = read_yaml(study, StudyProtocol) if study else start(name)
    content = base.model_dump()
    if seed is not None:
        content["seed"] = seed
    if organs:
        content["organs"] = organs
    if rounds:
        content["training"]["rounds"] = rounds
    if steps:
        content["training"]["local_steps"] = steps
    return StudyProtocol.model_validate(content)


def organs_of(data: Path | None, organs: str | None, option: str) -> dict[str, int] | None:
    """The label values of a folder; None for the phantom, whose organs are fixed.

    Raises:
        ProtocolError: If they are missing, not lawful, or given for the phantom.
    """
    if data is None:
        if organs is not None:
            raise ProtocolError(f"--organs: goes with {option}; the phantom's organs are fixed")
        return None
    from simulation.layouts import PROMISE12_ORGANS, is_promise12

    if organs is None and is_promise12(data):
        return dict(PROMISE12_ORGANS)
    if organs is None:
        raise ProtocolError(
            f"{option}: needs --organs with the label values of that folder, as "
            "anterior=1,posterior=2"
        )
    try:
        return parse_organs(organs)
    except ValueError as error:
        raise ProtocolError(f"--organs: {error}") from None


def fail(message: str) -> NoReturn:
    """End the command with status 2, a line for each mistake."""
    for line in message.splitlines():
        sys.stderr.write(f"error: {line}\n")
    raise typer.Exit(2)
