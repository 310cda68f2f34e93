"""Flower's app bundle (FAB) of a project folder, as `flwr run` would send it."""

import tomllib
from pathlib import Path
from typing import Any

_PROJECT = "pyproject.toml"
_WILD = frozenset("*?[!")


def build_bundle(root: Path) -> bytes:
    """The zip of all files that the project's pyproject.toml includes.

    Flower itself looks at every file below the folder, which with an environment or results in it
    takes many seconds; here only folders are entered of which something can be included.

    Raises:
        OSError, ValueError: If no bundle can be made of the folder.
    """
    # Late: it takes a second.
    from flwr.cli.build import build_fab_from_disk, build_fab_from_files
    from flwr.cli.utils import collect_files

    root = root.expanduser().resolve()
    folders = _included_folders(root)
    if not folders:
        return build_fab_from_disk(root)
    files = {path.name: path for path in root.iterdir() if path.is_file() and not path.is_symlink()}
    for folder in folders:
        if not (root / folder).is_symlink():
            found = collect_files(root / folder)
            files |= {f"{folder}/{name}": path for name, path in found.items()}
    return build_fab_from_files(files)[0]


def _included_folders(root: Path) -> list[str]:
    """The folders at the top that `fab-include` names; none where it may mean any."""
    try:
        project: dict[str, Any] = tomllib.loads((root / _PROJECT).read_text(encoding="utf-8"))
        patterns = project["tool"]["flwr"]["app"]["fab-include"]
        tops = {str(pattern).removeprefix("/").partition("/") for pattern in patterns}
    except (OSError, ValueError, KeyError, TypeError):  # Flower says what is wrong
        return []
    if any(not rest or _WILD & set(top) for top, _, rest in tops):
        return []
    return sorted(top for top, _, _ in tops)
