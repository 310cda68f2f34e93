"""A study file that a person reads and edits: every planned value below its reason."""

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from protocol.config.presets import PRESET_NAMES, PresetName, preset
from protocol.config.study import StudyProtocol
from protocol.config.study_file import BASE
from protocol.files import atomic_file, why_not_writable
from protocol.planning.budget import PlanError
from protocol.planning.plan import Plan

PLANNED: PresetName = "planned"
_COLUMNS = 96
_ABSENT = object()


def plan_yaml(plan: Plan, planned_on: StudyProtocol) -> str:
    """The text of a study file that reads back to exactly the planned study.

    Args:
        plan: The study, and why.
        planned_on: The recipe; where it is a preset but for what a preset never says, the file
            names that, and holds what differs from it.
    """
    name = _preset_of(planned_on)
    reasons = {
        "organs": "values in label maps, as given",
        **_of_recipe(planned_on, name),
        **plan.reasons,
    }
    base = _without_own(preset(name)) if name else StudyProtocol()
    lines = [line for text in plan.summary for line in _comment(text, "")]
    lines += [f"{BASE}: {name}"] if name else []
    content, other = (study.model_dump(mode="json") for study in (plan.protocol, base))
    content = {"name": content["name"], **content}
    return "\n".join([*lines, *_section(content, other, reasons, "", "")]) + "\n"


def study_name(text: str) -> str:
    """The name of a study that is kept in a file or folder of this name, without its suffix."""
    valid = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:64]
    return valid or PLANNED


def check_out(path: Path) -> None:
    """Before anything is read or asked: whether the study can be written there.

    Raises:
        PlanError: There is a file already, or none can be made.
    """
    if path.exists():
        raise PlanError(f"--out: {path} is there already; name a new file")
    if reason := why_not_writable(path):
        raise PlanError(
            f"--out: {path} cannot be written ({reason}); name a file in a folder that you may"
            " write to"
        )


def write_study(path: Path, text: str) -> None:
    """A study file, where there is none yet.

    Raises:
        FileExistsError: There is one.
        OSError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, overwrite=False) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        # Of the file that was asked for, not of its draft.
        raise OSError(error.errno, error.strerror, str(path)) from None


def _of_recipe(study: StudyProtocol, name: PresetName | None) -> dict[str, str]:
    """What nothing in the scans decides, and a reader asks for first: named in the file too."""
    source = f"the recipe's ({BASE}: {name})" if name else "that of the study planned on"
    flips = {"training.flips": "mirror images among the views: leave out what your anatomy forbids"}
    return {
        "network.architecture": f"the network S: {source}",
        "method.supervised": f"the loss that S learns labels by: {source}",
        "training.lr_segmenter": f"Adam's learning rate of S in round 1: {source}",
        "training.lr_schedule": f"how it falls by round: {source}",
        "training.views": f"random views of training patches: {source}",
        **(flips if study.training.views != "none" else {}),
    }


def _preset_of(study: StudyProtocol) -> PresetName | None:
    """The preset that it is, but for its name, organs and seed, and how long it trains."""
    for name in (PLANNED, *PRESET_NAMES):
        known = preset(name)
        own = {"name": study.name, "organs": study.organs, "seed": study.seed}
        lengths = {"rounds": study.training.rounds, "local_steps": study.training.local_steps}
        training = known.training.model_copy(update=lengths)
        if known.model_copy(update={**own, "training": training}) == study:
            return name
    return None


def _without_own(study: StudyProtocol) -> StudyProtocol:
    """A preset as a study file that names it begins: name and organs are never the preset's."""
    paper = StudyProtocol()
    return study.model_copy(update={"name": paper.name, "organs": paper.organs})


def _section(
    content: Mapping[str, Any],
    other: Mapping[str, Any],
    reasons: Mapping[str, str],
    prefix: str,
    indent: str,
) -> Iterator[str]:
    """The lines of the fields that have a reason or differ, in the order of the reference."""
    for key, value in content.items():
        field, default = f"{prefix}{key}", other.get(key, _ABSENT)
        reason = reasons.get(field)
        inside = any(name.startswith(f"{field}.") for name in reasons)
        if value == default and reason is None and not inside:
            continue
        # Organs are one value: names are not fields, and a base's would be kept beside them.
        if isinstance(value, Mapping) and isinstance(default, Mapping) and field != "organs":
            below = list(_section(value, default, reasons, f"{field}.", f"{indent}  "))
            yield from [f"{indent}{key}:", *below] if below else []
            continue
        yield from _comment(reason, indent) if reason else ()
        yield f"{indent}{key}: {_plain(value)}"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()),
        _COLUMNS,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}#   ",
        break_on_hyphens=False,
    )


def _plain(value: object) -> str:
    """On one line, whatever it holds."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
