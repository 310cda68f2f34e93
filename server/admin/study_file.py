"""A run keeps the study that it was made with; its file may say something else by now."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from protocol.config.study import ProtocolError, StudyProtocol
from protocol.config.study_file import read_study

_SHOWN = 6


def edited_study(path: Path | None, kept: StudyProtocol) -> list[str]:
    """What a person has to know before the run goes on, a line; none where nothing has changed.

    Args:
        path: The file that the run was made from; None: it was a preset.
        kept: The run's own study.
    """
    if path is None or not path.is_file():
        return []
    own = "the run goes on with the study that it was made with"
    new = f"for what the file says now, start a new run: asdnet-centre run --study {path}"
    try:
        now = read_study(path)
    except (ProtocolError, RecursionError):
        return [f"{path}: has been edited since, and is no study any more; {own}"]
    changed = list(_changed(kept.model_dump(mode="json"), now.model_dump(mode="json")))
    if not changed:
        return []
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return [f"{path}: has been edited since ({'; '.join(changed[:_SHOWN])}{more}); {own}; {new}"]


def _changed(before: Any, after: Any, place: str = "") -> Iterator[str]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping) and before.keys() == after.keys():
        for key in before:
            yield from _changed(before[key], after[key], f"{place}.{key}" if place else str(key))
    else:
        yield f"{place}: {before} is now {after}"
