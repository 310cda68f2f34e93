"""The digest of the installed version is of what Python imports of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.agreement.bundle import BundleError, installed_bundle

ROOT = Path(__file__).parents[4]
PROJECT = """
[project]
name = "tiny"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "tiny"
fab-include = ["tiny/**/*.py"]
[tool.flwr.app.components]
serverapp = "tiny.server:app"
clientapp = "tiny.client:app"
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    (root / "tiny" / "sub").mkdir(parents=True)
    (root / "pyproject.toml").write_text(PROJECT)
    for name in ("__init__.py", "server.py", "client.py", "sub/__init__.py"):
        (root / "tiny" / name).write_text("app = 1\n")
    return root


def ignored(root: Path) -> str:
    (root / ".gitignore").write_text("local.py\n")
    (root / "tiny" / "local.py").write_text("evil = 1\n")
    return r"tiny/local\.py can be imported, but is not in the bundle"


def compiled(root: Path) -> str:
    """Python takes an extension module before the source of the same name."""
    (root / "tiny" / "client.abi3.so").write_bytes(b"\x7fELF")
    return r"tiny/client\.abi3\.so can be imported, but is not in the bundle"


def byte_code_alone(root: Path) -> str:
    (root / "tiny" / "sub" / "more.pyc").write_bytes(b"evil")
    return r"tiny/sub/more\.pyc can be imported, but is not in the bundle"


def linked_folder(root: Path) -> str:
    (root.parent / "elsewhere").mkdir()
    (root / "tiny" / "more").symlink_to(root.parent / "elsewhere")
    return "tiny/more is a link"


def linked_file(root: Path) -> str:
    (root.parent / "elsewhere.py").write_text("evil = 1\n")
    (root / "tiny" / "more.py").symlink_to(root.parent / "elsewhere.py")
    return r"tiny/more\.py is a link"


def beside_the_room(root: Path) -> str:
    (root / "tiny.py").write_text("evil = 1\n")
    return r"tiny\.py could be imported in place of tiny/"


def hostile_name(root: Path) -> str:
    (root / "tiny" / "\x1b[2Jx.pyc").write_bytes(b"evil")
    return r"tiny/\\x1b\[2Jx\.pyc can be imported"


TAMPERINGS = [
    ignored, compiled, byte_code_alone, linked_folder, linked_file, beside_the_room, hostile_name
]  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_what_would_run_without_being_digested_is_named(
    app: Path, tamper: Callable[[Path], str]
) -> None:
    before = installed_bundle(app)
    (app / "tiny" / "__pycache__").mkdir()
    (app / "tiny" / "__pycache__" / "client.cpython-311.pyc").write_bytes(b"")
    assert installed_bundle(app) == before
    named = tamper(app)
    with pytest.raises(BundleError, match=f"installed version in .*: .*{named}.*make install"):
        installed_bundle(app)


def test_a_package_from_another_folder_is_named(tmp_path: Path) -> None:
    """A folder on PYTHONPATH comes before the checkout that the other rooms are of."""
    evil = tmp_path / "reporting"
    evil.mkdir()
    (evil / "__init__.py").write_text("")
    line = (
        f"import sys; sys.path.append({str(ROOT)!r});"
        "import reporting; from protocol.agreement.bundle import installed_bundle;"
        "installed_bundle()"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", line],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert f"reporting was imported from {evil}/__init__.py" in done.stderr


def test_this_checkout_is_clean() -> None:
    assert "client/app.py" in installed_bundle().files
