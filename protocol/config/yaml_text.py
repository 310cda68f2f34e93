"""YAML as PyYAML reads it, but a key that stands twice is told: the last one would win."""

import codecs
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml


class EncodingError(ValueError):
    """A file in another encoding than UTF-8; says which line, and what to do."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: dict[Any, int] = {}
        for key in own:
            name = self.construct_object(key, deep=True)
            line = key.start_mark.line + 1
            if not isinstance(name, Hashable):
                continue  # told by what follows
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{name!r} stands in line {seen[name]} and in line {line}; keep one"
                )
            seen[name] = line
        return super().construct_mapping(node, deep=deep)


def load_yaml(text: str) -> Any:
    """The content of one document.

    Raises:
        yaml.YAMLError: It is not YAML, or has a key twice; with both lines.
    """
    return yaml.load(text, _Loader)


def read_utf8(path: Path) -> str:
    """The text of a file, a byte order mark left out.

    Raises:
        EncodingError: It is in UTF-16 or Latin-1, as editors of Windows save it.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise EncodingError("is in UTF-16; save it as UTF-8") from None
        line = content.count(b"\n", 0, error.start) + 1
        raise EncodingError(f"line {line}: is not UTF-8 text; save the file as UTF-8") from None
