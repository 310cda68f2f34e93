"""What breaks a rule of a study or site file, in words: the key, what it must be, what it is."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

# Keys of earlier versions, and what says the same now.
_RENAMED = {"training.augment": "is now 'views': weak (was true) or none (was false)"}
_LONGEST_SHOWN = 200  # characters of a value in a message
# Pydantic's names of the rules that a value breaks by its size alone.
_OUT_OF_BOUNDS = frozenset(
    {
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"),
        *("too_long", "string_too_long", "int_parsing_size"),
    }
)
_WHOLE, _NUMBER, _TEXT = "must be a whole number", "must be a number", "must be text"
_LIST, _KEYS = "must be a list, [...]", "must hold keys and values, key: value"
_SWITCH, _DATE = "must be true or false", "must be a date and time"
# By the name of pydantic's rule; {...} is what the rule says.
_RULES: Mapping[str, str] = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_pattern_mismatch": "must be {pattern}",
    "too_long": "must have {max_length} entries at most",
    "too_short": "must have {min_length} entries at least",
    "string_too_long": "must have {max_length} characters at most",
    "string_too_short": "must have {min_length} characters at least",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), _SWITCH),
    **dict.fromkeys(("string_type", "path_type", "string_sub_type"), _TEXT),
    **dict.fromkeys(("tuple_type", "list_type"), _LIST),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), _KEYS),
    **dict.fromkeys(("datetime_type", "datetime_parsing", "datetime_from_date_parsing"), _DATE),
}
# Forms of texts, by their patterns.
_FORMS: Mapping[str, str] = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$": (
        "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$": (
        "1 to 32 letters, digits, '_' and '-', beginning with a letter or digit"
    ),
    r"^[A-Z]{2,16}$": "2 to 16 capital letters, as MR",
    r"^cuda:\d+$": "a GPU by its number, as cuda:0",
    r"^[0-9a-f]{64}$": "64 of the digits 0 to 9 and a to f",
}
# Kinds of a value that may be of several: pydantic tells the mistake of each at its own location.
_KINDS = ("str", "int", "constrained-str", "constrained-int")


def beyond_bounds(error: ValidationError) -> bool:
    """Whether a value is of the right kind and out of bounds: absurd, not misunderstood."""
    return any(item["type"] in _OUT_OF_BOUNDS for item in error.errors())


def rule_of(item: Mapping[str, Any]) -> str:
    """What one value must be."""
    if (known := _RULES.get(item["type"])) is None:
        return str(item["msg"].removeprefix("Value error, "))
    said = {name: _plain(name, value) for name, value in item.get("ctx", {}).items()}
    return known.format_map(said)


def explain(error: ValidationError, location: str, *, secret: bool = False) -> str:
    """All mistakes of one validation, a line each: location, rule, value.

    Args:
        error: Of the validation.
        location: Of what was validated, as a file's path.
        secret: A value may be a secret: none is shown.
    """
    lines: dict[str, list[tuple[str, str]]] = {}
    locations = [item["loc"] for item in error.errors()]
    for item in error.errors():
        where = ".".join(map(str, _without_kind(item["loc"], locations)))
        rule, value = _told(item, where)
        lines.setdefault(where, []).append((rule, "" if secret else value))
    return "\n".join(
        f"{location}: {where + ': ' if where else ''}{line}"
        for where, told in lines.items()
        for line in _joined(told)
    )


def _told(item: Mapping[str, Any], where: str) -> tuple[str, str]:
    """What is wrong with a value, and the value as it follows."""
    value = item["input"]
    if item["type"] == "extra_forbidden":
        if where in _RENAMED:
            return _RENAMED[where], ""
        return "unknown key; remove it or correct its spelling", f" (is {_shown(value)})"
    if item["type"] == "missing":
        return "is missing", ""
    if item["type"] == "value_error":
        return rule_of(item), ""
    if value is None:
        return "is empty; give it a value, or remove the key", ""
    return rule_of(item), f", not {_shown(value)}"


def _joined(told: Sequence[tuple[str, str]]) -> list[str]:
    """One line where a value is none of several kinds; else a line for each mistake."""
    rules = list(dict.fromkeys(rule for rule, _ in told))
    if len(told) > 1 and all(rule.startswith("must be ") for rule in rules):
        one_of = " or ".join(rule.removeprefix("must be ") for rule in rules)
        return [f"must be {one_of}{told[0][1]}"]
    return [rule + value for rule, value in dict.fromkeys(told)]


def _without_kind(
    loc: tuple[int | str, ...], all_locations: Sequence[tuple[int | str, ...]]
) -> tuple[int | str, ...]:
    """The location of a value, whichever kind of it was tried."""
    of_kind = loc and (loc[-1] in _KINDS or str(loc[-1]).startswith("literal["))
    siblings = [other for other in all_locations if other[:-1] == loc[:-1]]
    return loc[:-1] if of_kind and len(siblings) > 1 else loc


def _plain(name: str, value: Any) -> str:
    """A bound, a list of choices or a pattern, as it is said."""
    if name == "pattern":
        return _FORMS.get(str(value), f"as the pattern {value} has it")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,.12g}"
    return str(value)


def _shown(value: object) -> str:
    given = str(value).lower() if isinstance(value, bool) else repr(value)
    if len(given) > _LONGEST_SHOWN:
        return f"{given[:_LONGEST_SHOWN]}... of {len(given)} characters"
    return given
