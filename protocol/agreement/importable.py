"""What Python would import of a checkout, compared with what its bundle holds.

A digest is of the files that a bundle is made of.  A file that Flower leaves out (.gitignore, its
type), a link, or a package from another folder would run without being in it.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import all_suffixes
from pathlib import Path

_CACHE = "__pycache__"  # what is in it is used for the source beside it alone
_MAX_LISTED = 10


def import_mistakes(root: Path, files: Mapping[str, bytes], *, running: bool) -> list[str]:
    """Modules that would be imported of other files than the bundle's; none if all are its own.

    Args:
        root: The checkout.
        files: The bundle's, by path.
        running: The checkout's code runs in this process: its modules are looked at too.
    """
    rooms = {path.partition("/")[0] for path in files if path.endswith(".py") and "/" in path}
    mistakes = [mistake for room in sorted(rooms) for mistake in _in_room(root, room, files)]
    if running:
        mistakes += _loaded_elsewhere(root, rooms)
    more = len(mistakes) - _MAX_LISTED
    return mistakes[:_MAX_LISTED] + ([f"and {more} more"] if more > 0 else [])


def _in_room(root: Path, room: str, files: Mapping[str, bytes]) -> Iterator[str]:
    if (root / room).is_symlink():
        yield f"{room} is a link"
    for suffix in all_suffixes():
        # A package comes before it, unless it is none.
        if (root / f"{room}{suffix}").exists():
            yield f"{room}{suffix} could be imported in place of {room}/"
    for place, folders, names in os.walk(root / room):
        folders[:] = sorted(folder for folder in folders if folder != _CACHE)
        for name in (*folders, *sorted(names)):
            path = Path(place) / name
            shown = path.relative_to(root).as_posix()
            importable = name.endswith(tuple(all_suffixes()))
            if path.is_symlink() and (importable or path.is_dir()):
                yield f"{shown} is a link"
            elif name in names and importable:
                if shown not in files:
                    yield f"{shown} can be imported, but is not in the bundle"
                elif path.read_bytes() != files[shown]:
                    yield f"{shown} is another one in the bundle"


def _loaded_elsewhere(root: Path, rooms: set[str]) -> Iterator[str]:
    for name, module in sorted(sys.modules.items()):
        location = getattr(module, "__file__", None)
        if name.partition(".")[0] in rooms and location is not None:
            expected = root.joinpath(*name.split("."))
            found = Path(location).resolve()
            if found not in (expected.with_name(f"{expected.name}.py"), expected / "__init__.py"):
                yield f"{name} was imported from {found}"
