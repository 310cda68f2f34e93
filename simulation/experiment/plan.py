"""The runs of an experiment in their order, and whether a folder has the same experiment."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from protocol.config.study import ProtocolError
from protocol.wording import listed_names
from simulation.experiment.methods import METHODS, Method
from simulation.experiment.store import SETTINGS, ExperimentInfo, RunKey, Setting
from simulation.folds import FOLDS

COMPARED_METHODS = ("ASDNet", "AttSVNet")
TABLES = (1, 2)
# Keys of study.json: what may differ when an experiment goes on, and what may only get more.
_MAY_DIFFER = {"command", "started", "versions", "notes"}
_MAY_GROW = ("rows", "ways", "folds", "seeds", "own_rows")


def choose_methods(
    tables: str | None, methods: str | None, own: Mapping[str, Method] | None = None
) -> dict[str, Method]:
    """The methods of these tables, or those named, in the order of the tables; then one's own.

    Args:
        tables: As "1,2"; None: both, or none where there are methods of one's own.
        methods: As "SVNet,ASDNet", instead of tables.
        own: Methods that are in no table.

    Raises:
        ProtocolError: For an unknown table or method, or where both are given.
    """
    own = own or {}
    if tables is not None and methods is not None:
        raise ProtocolError("--rows: instead of --tables; give one of the two")
    if methods is not None:
        names = named_methods(methods, "--rows")
        return {name: METHODS[name] for name in names} | dict(own)
    wanted = _listed(tables if tables is not None else "" if own else "1,2")
    _refuse_unknown("--tables", wanted, [*map(str, TABLES)])
    chosen = {name: r for name, r in METHODS.items() if set(map(str, r.tables)) & set(wanted)}
    return chosen | dict(own)


def named_methods(text: str, option: str, own: Iterable[str] = ()) -> tuple[str, ...]:
    """Methods by name, in the order of the tables, one's own last.

    Raises:
        ProtocolError: If one is unknown, with the names that are known; or if there is none.
    """
    known = (*METHODS, *own)
    wanted = _listed(text)
    _refuse_unknown(option, wanted, known)
    if not wanted:
        raise ProtocolError(f"{option}: names no method; known are {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


def choose_settings(text: str) -> tuple[Setting, ...]:
    """Settings to train in, as "federated,pooled-equal-steps,local".

    Raises:
        ProtocolError: If one is unknown, or there is none.
    """
    wanted = _listed(text)
    _refuse_unknown("--settings", wanted or [""], SETTINGS)
    return tuple(setting for setting in SETTINGS if setting in wanted)


def _refuse_unknown(option: str, wanted: Iterable[str], known: Sequence[str]) -> None:
    unknown = [repr(name) for name in wanted if name not in known]
    if unknown:
        near = (name for text in unknown for name in get_close_matches(text.strip("'"), known, 1))
        close = [*dict.fromkeys(near)]
        meant = f"; did you mean {listed_names(close)}?" if close else ""
        raise ProtocolError(
            f"{option}: must be of {', '.join(known)}, not {listed_names(unknown)}{meant}"
        )


def _listed(text: str) -> list[str]:
    return [part for part in (part.strip() for part in text.split(",")) if part]


def settings_of(
    name: str, method: Method, settings: Sequence[Setting], compared: Iterable[str]
) -> tuple[Setting, ...]:
    """The settings that a method is trained in.

    Methods to be compared are trained in all the chosen settings, the others federated only, if
    that is chosen.  MALF has nothing to average: its atlases are patients, pooled or a site's own.
    Neither baseline takes the study's steps, so pooled is pooled.
    """
    impossible: Mapping[str, tuple[Setting, ...]] = {
        "malf": ("federated", "pooled-equal-steps"),
        "ssae": ("pooled-equal-steps",),
    }
    possible = tuple(s for s in settings if s not in impossible.get(method.kind, ()))
    if name in compared or "federated" not in possible:
        return possible
    return ("federated",)


def plan_runs(
    methods: Mapping[str, Method],
    settings: Sequence[Setting],
    compared: Iterable[str],
    folds: Sequence[int],
    seeds: Sequence[int],
) -> list[RunKey]:
    """All runs of an experiment in the order in which they are done.

    Every fold of a seed before the next seed, so that an experiment that is stopped has scores of
    every case; within a fold the federated runs first.
    """
    compared = set(compared)
    return [
        RunKey(method=name, setting=setting, fold=fold, seed=seed)
        for seed in seeds
        for fold in folds
        for setting in SETTINGS
        for name, method in methods.items()
        if setting in settings_of(name, method, settings, compared)
    ]


def choose_folds(number: int) -> tuple[int, ...]:
    """The first folds of five.

    Raises:
        ProtocolError: If there are not so many.
    """
    if not 1 <= number <= FOLDS:
        raise ProtocolError(f"--folds: must be 1 to {FOLDS}, not {number}")
    return tuple(range(1, number + 1))


def choose_seeds(number: int) -> tuple[int, ...]:
    """1, 2, ... `number`.

    Raises:
        ProtocolError: If it is none.
    """
    if number < 1:
        raise ProtocolError(f"--seeds: must be 1 or more, not {number}")
    return tuple(range(1, number + 1))


def differences(old: ExperimentInfo, new: ExperimentInfo) -> list[str]:
    """Why the new experiment is not the old one, or the old one with more in it.

    Returns:
        A line each: setting, old value, new value.
    """
    before, after = _plain(old), _plain(new)
    for key in _MAY_GROW:
        if isinstance(before[key], Mapping):
            # A method that has stayed must be what it was.
            after[key] = {k: v for k, v in after[key].items() if k in before[key]}
        elif set(before[key]) <= set(after[key]):
            after[key] = before[key]
    lines: list[str] = []
    _compare("", before, after, lines)
    return lines


def _plain(info: ExperimentInfo) -> dict[str, Any]:
    return info.model_dump(mode="json", exclude=_MAY_DIFFER)


def _compare(location: str, old: Any, new: Any, lines: list[str]) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            _compare(f"{location}.{key}" if location else key, old.get(key), new.get(key), lines)
    elif old != new:
        lines.append(f"{location} was {_shown(old)}, is {_shown(new)}")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
