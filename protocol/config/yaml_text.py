"""YAML as PyYAML reads it, but a key that stands twice is told: the last one would win."""

from collections.abc import Hashable
from typing import Any

import yaml


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
