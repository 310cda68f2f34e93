"""Imports the rooms from files in memory: what runs is, byte for byte, what was digested.

No folder is searched, no byte code read or written, no extension module loaded: a file on
PYTHONPATH, a stale .pyc or an ignored file beside the approved ones cannot come in their place.
Standard library alone: the worker has it before it can import anything of ours.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

ROOMS = frozenset(
    {"asdnet_models", "client", "flower_compat", "protocol", "reporting", "server", "simulation"}
)

Read = Callable[[str], bytes | None]


class CodeImporter(MetaPathFinder, SourceLoader):  # type: ignore[misc]
    """Finds the rooms' modules among these files, and nowhere else.

    Args:
        read: The content of a file by its path in the checkout or bundle; None: there is none.
        origin: Stands before the path in tracebacks.
    """

    def __init__(self, read: Read, origin: str) -> None:
        self._read, self._origin = read, origin

    def install(self) -> None:
        """Forget what is loaded of the rooms, and import them from here from now on."""
        for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
            del sys.modules[name]
        sys.meta_path[:] = [
            self,
            *(finder for finder in sys.meta_path if not isinstance(finder, CodeImporter)),
        ]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in ROOMS:
            return None
        stem = fullname.replace(".", "/")
        for file, package in ((f"{stem}/__init__.py", True), (f"{stem}.py", False)):
            if self._read(file) is not None:
                origin = f"{self._origin}/{file}"
                spec = spec_from_loader(fullname, self, origin=origin, is_package=package)
                assert spec is not None
                spec.has_location = True
                return spec
        raise ModuleNotFoundError(f"{self._origin}: there is no module {fullname}", name=fullname)

    def get_filename(self, fullname: str) -> str:
        spec = self.find_spec(fullname, None)
        assert spec is not None and spec.origin is not None
        return spec.origin

    def is_package(self, fullname: str) -> bool:
        return self.get_filename(fullname).endswith("/__init__.py")

    def get_data(self, path: str | bytes) -> bytes:
        content = self._read(str(path).removeprefix(f"{self._origin}/"))
        if content is None:
            raise FileNotFoundError(path)
        return content


def files_below(root: Path) -> Read:
    """The files of a checkout, read from the disk."""

    def read(file: str) -> bytes | None:
        path = root / file
        return path.read_bytes() if path.is_file() else None

    return read
