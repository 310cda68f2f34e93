"""The reference: pages made from the code at every build, so that they cannot lag behind it.

Study and site files from their pydantic models, commands from their click groups, the Python
reference from the modules that there are.
"""

import importlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel

from asdnet_models.catalogue import METHODS, NETWORKS
from protocol.config.presets import PRESET_NAMES, preset
from protocol.config.rules import MEANING
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "asdnet-site": "client.cli",
    "asdnet-centre": "server.cli",
    "asdnet-sim": "simulation.cli",
}
ROOMS = ("asdnet_models", "protocol", "client", "server", "simulation")
# Study files of docs/examples, and what each shows.
EXAMPLES = {
    "isotropic.yaml": "voxels about as long as wide (hippocampus, 1 mm)",
    "anisotropic.yaml": "voxels much longer than wide (heart, 1.5 x 1.5 x 8 mm)",
}
# Values that a field's own type does not list.
_NAMES: Mapping[str, Iterable[str]] = {"network.architecture": NETWORKS, "method.name": METHODS}
_GENERATED = "*This page is made from the code at every build of the documentation.*\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def pages() -> dict[str, str]:
    """Every page of the reference by its path in the site's source."""
    made = {
        "reference/study-file.md": study_file(),
        "reference/site-file.md": site_file(),
        "reference/presets.md": presets(),
        "reference/rules.md": rules(),
    }
    for name, module in COMMANDS.items():
        made[f"reference/{name}.md"] = commands(name, importlib.import_module(module).app)
    for room in ROOMS:
        made[f"reference/python/{room}.md"] = python(room)
    return made


# Study and site files


def study_file() -> str:
    """Every field of a study's file, with its value in each preset, and two whole files."""
    values = {name: dict(_values(preset(name).model_dump())) for name in reversed(PRESET_NAMES)}
    named = ", ".join(f"`{name}`" for name in values if name != "paper")
    return "\n".join(
        [
            "# Study file",
            _GENERATED,
            "What the coordinating centre decides for all sites. A study file is YAML with the "
            "fields that differ from their defaults, which are the paper's. An unknown key, a "
            "value of the wrong type and a value that is not allowed are refused, all at once.\n",
            "```yaml\nname: pelvis-2026\norgans: {bladder: 1, prostate: 2, rectum: 3}\n"
            "training: {rounds: 100}\n```\n",
            "`base: planned`, or another preset's name, has a file's keys change that preset.\n",
            "Two whole files stand here as a plan from the sites' data writes them, each value "
            "below its reason. In the tables "
            f"{named} are [presets](presets.md); a cell is empty where the value is the paper's. "
            "Lengths are in mm, edges in voxels; three values stand for x, y and z (to the left, "
            "to the back, up).\n",
            *(_example(name, title) for name, title in EXAMPLES.items()),
            *_sections(StudyProtocol, "The study", values=values),
        ]
    )


def _example(name: str, title: str) -> str:
    """A whole file, which a test loads and trains a step of."""
    text = (ROOT / "docs" / "examples" / name).read_text(encoding="utf-8")
    return f"## Example: {title}\n\n[examples/{name}](../examples/{name})\n\n```yaml\n{text}```\n"


def site_file() -> str:
    """Every field of a site's file."""
    return "\n".join(
        [
            "# Site file",
            _GENERATED,
            "Facts and limits of one hospital, in `site_configs/NAME.yaml`; nothing in it changes "
            "the science. Relative paths count from the folder of the file.\n",
            *_sections(SiteConfig, "The site"),
        ]
    )


def presets() -> str:
    """The values in which the presets differ from the paper's."""
    values = {name: dict(_values(preset(name).model_dump())) for name in PRESET_NAMES}
    table = [("field", *(f"`{name}`" for name in PRESET_NAMES))]
    for field in values["paper"]:
        row = [values[name][field] for name in PRESET_NAMES]
        if field != "name" and any(value != row[-1] for value in row):
            table.append((f"`{field}`", *(f"`{_plain(value)}`" for value in row)))
    return "\n".join(
        [
            "# Presets",
            _GENERATED,
            "Named study files: `--preset NAME`. `paper` is the paper's setting and the default of "
            "every field. The fields in which the others differ from it:\n",
            _table(table),
        ]
    )


def rules() -> str:
    """What a case must meet."""
    rows = [("rule", "what must hold"), *((f"`{rule}`", text) for rule, text in MEANING.items())]
    return "\n".join(
        [
            "# Rules of the data",
            _GENERATED,
            "A case that breaks a rule is not used. The site's own check shows the value and what "
            "to do; the centre gets the rule's name and how many cases broke it.\n",
            _table(rows),
        ]
    )


def _sections(
    model: type[BaseModel],
    title: str,
    prefix: str = "",
    values: Mapping[str, Mapping[str, Any]] | None = None,
) -> Iterator[str]:
    """A heading and a table for the model, then the same for each model in its fields.

    Args:
        model: Of the file, or of a section of it.
        title: Of the heading.
        prefix: What stands before a field's name, as "training.".
        values: By preset, the value of each field by its whole name; the paper's first.
    """
    yield f"## {title}\n"
    yield _fields_table(model, prefix, values or {})
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            nested = f"{prefix}{name}"
            heading = f"`{nested}`: {field.description}"
            yield from _sections(field.annotation, heading, f"{nested}.", values)


def _is_section(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, BaseModel)


def _fields_table(
    model: type[BaseModel], prefix: str, values: Mapping[str, Mapping[str, Any]]
) -> str:
    schemas = model.model_json_schema(mode="validation")["properties"]
    others = [name for name in values if name != "paper"]
    default = "`paper`, the default" if values else "default"
    rows = [("field", "type", "allowed", default, *(f"`{n}`" for n in others), "what it is")]
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            continue
        kind, allowed = _type(schemas[name])
        if names := _NAMES.get(prefix + name):
            allowed = ", ".join(f"`{known}`" for known in names)
        default = (
            "required"
            if field.is_required()
            else f"`{_plain(field.get_default(call_default_factory=True))}`"
        )
        changed = [_changed(values, other, prefix + name) for other in others]
        what = field.description or ""
        rows.append((f"`{prefix}{name}`", kind, allowed, default, *changed, what))
    return _table(rows)


def _changed(values: Mapping[str, Mapping[str, Any]], name: str, field: str) -> str:
    """A preset's value, where it is not the paper's."""
    value = values[name][field]
    return "" if value == values["paper"][field] else f"`{_plain(value)}`"


_TYPES = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {
    "minimum": "&ge; {}",
    "exclusiveMinimum": "&gt; {}",
    "maximum": "&le; {}",
    "exclusiveMaximum": "&lt; {}",
}


def _type(schema: Mapping[str, Any]) -> tuple[str, str]:
    """In words, the type of a JSON schema, and what it allows."""
    if choices := schema.get("anyOf"):
        types, limits = zip(*map(_type, choices), strict=True)
        return " or ".join(dict.fromkeys(types)), ", ".join(filter(None, limits))
    if values := schema.get("enum"):
        return _TYPES[schema["type"]], ", ".join(f"`{value}`" for value in values)
    if "prefixItems" in schema:
        kind, allowed = _type(schema["prefixItems"][0])
        return f"{len(schema['prefixItems'])} {kind}s", allowed and f"each {allowed}"
    if schema.get("type") == "array":
        kind, allowed = _type(schema["items"])
        if "prefixItems" in schema["items"]:
            return f"list of lists of {kind}", allowed
        plural = "s" if kind in ("number", "integer") else ""
        return f"list of {kind}{plural}", allowed and f"each {allowed}"
    if schema.get("type") == "object":
        kind, allowed = _type(schema["additionalProperties"])
        return f"name to {kind}", allowed and f"each {allowed}"
    limits = [text.format(f"{schema[key]:.10g}") for key, text in _BOUNDS.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"`{schema['pattern']}`")
    kind = "path" if schema.get("format") == "path" else _TYPES[schema["type"]]
    return kind, ", ".join(limits)


def _values(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and key != "organs":
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _plain(value: Any) -> str:
    """A value as YAML reads it, short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, str) and value else json.dumps(value)


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = (
        "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"
        for row in rows
    )
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body, ""])


# Commands


def commands(name: str, group: click.Group) -> str:
    """Every command of a group with its arguments and options."""
    context = click.Context(group, info_name=name)
    parts = [f"# `{name}`", _GENERATED, f"{group.help}\n"]
    for sub in group.list_commands(context):
        command = group.get_command(context, sub)
        assert command is not None
        parts.append(_command(command, click.Context(command, info_name=sub, parent=context)))
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    rows = [("argument or option", "default", "what it is")]
    for parameter in command.get_params(context):
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        rows.append(_parameter(parameter, context))
    text = inspect.cleandoc(command.help or "").replace("\f", "").replace("\b\n", "")
    return "\n".join(
        [f"## `{context.command_path}`\n", f"```\n{usage}\n```\n", text, "", _table(rows)]
    )


def _parameter(parameter: click.Parameter, context: click.Context) -> tuple[str, str, str]:
    name = (parameter.get_help_record(context) or (parameter.human_readable_name, ""))[0]
    text = getattr(parameter, "help", None) or ""
    default = parameter.get_default(context)
    if parameter.required:
        shown = "required"
    elif default in (None, False, (), []):
        shown = ""
    else:
        shown = f"`{_plain(default)}`"
    return f"`{name}`", shown, text.replace("\\[", "[")


# Python


def python(room: str) -> str:
    """The public names of a library, or the public modules of a room."""
    package = importlib.import_module(room)
    # In the search, pages that people wrote come first.
    parts = ["---\nsearch: {boost: 0.3}\n---\n", f"# `{room}`\n", inspect.getdoc(package) or "", ""]
    if names := getattr(package, "__all__", None):
        return "\n".join([*parts, *(f"::: {room}.{name}" for name in names)])
    for module in _modules(room):
        parts += [f"## `{module}`\n", f"::: {module}\n    options: {{show_root_heading: false}}\n"]
    return "\n".join(parts)


def _modules(room: str) -> Iterator[str]:
    """The room's modules by name, without its commands, which have pages of their own."""
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not any(part.startswith("_") or part in ("commands", "cli") for part in parts):
            yield ".".join(parts)
