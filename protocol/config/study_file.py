"""Reads a study file: a preset by name, and what the file changes of it."""

from collections.abc import Callable
from pathlib import Path

from protocol.config.presets import PRESET_NAMES, PresetName, preset
from protocol.config.study import (
    ProtocolError,
    StudyProtocol,
    merged_content,
    validated,
    yaml_content,
)

BASE = "base"


def read_study(path: Path, start: Callable[[PresetName], StudyProtocol] = preset) -> StudyProtocol:
    """The whole protocol of a study file.

    Args:
        path: The file.
        start: What a name of `base` stands for.

    Its key `base` names the preset that all other keys change, at any depth; without it that is
    the paper.  The name of a study, and its organs, are never the preset's.

    Raises:
        ProtocolError: If the file cannot be read, names an unknown base, or breaks rules of a
            study; the message lists every mistake.
    """
    content = yaml_content(path)
    if BASE not in content:
        return validated(content, StudyProtocol, path)
    wanted = content.pop(BASE)
    for name in PRESET_NAMES:
        if name == wanted:
            # Without what is the default anyway: what the file has set can then be told.
            base = start(name).model_dump(exclude_defaults=True, exclude={"name", "organs"})
            return validated(merged_content(base, content), StudyProtocol, path)
    raise ProtocolError(
        f"{path}: {BASE}: must be one of {', '.join(PRESET_NAMES)}, not {wanted!r}; without it the"
        " other keys change the paper's study"
    )
