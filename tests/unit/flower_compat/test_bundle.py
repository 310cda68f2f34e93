"""Our bundle is Flower's to the byte, and what cannot be in it is not looked at."""

from pathlib import Path

import flwr.cli.utils
import pytest
from flwr.cli.build import build_fab_from_disk

from flower_compat.bundle import build_bundle

PROJECT = """
[project]
name = "small"
version = "1.0.0"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "us"
{include}

[tool.flwr.app.components]
serverapp = "room.app:app"
clientapp = "room.app:app"
"""
ROOMS = 'fab-include = ["room/**/*.py", "/other/*.py"]'
FILES = {
    "room/app.py": "app = 1\n",
    "room/deep/er.py": "x = 2\n",
    "room/__pycache__/app.py": "no\n",
    "room/notes.txt": "no\n",
    "room/secret.py": "ignored by .gitignore\n",
    "room/test_app.py": "no\n",
    "other/one.py": "y = 3\n",
    "other/deep/two.py": "not included\n",
    "elsewhere/three.py": "not included\n",
    ".venv/lib/python/site.py": "not included\n",
    ".gitignore": "secret.py\n",
}


def project(folder: Path, include: str) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "pyproject.toml").write_text(PROJECT.format(include=include))
    (folder / "room" / "linked.py").symlink_to(folder / "elsewhere" / "three.py")
    (folder / "room" / "linked").symlink_to(folder / "elsewhere")
    return folder


@pytest.mark.parametrize(
    "include",
    [
        ROOMS,
        "",
        'fab-include = ["**/*.py"]',
        'fab-include = ["r*/**/*.py"]',
        'fab-include = ["room"]',
        'fab-include = ["room/**/*.py", "room/deep/*.py", "missing/*.py"]',
    ],
)
def test_it_is_flowers_to_the_byte(tmp_path: Path, include: str) -> None:
    assert_as_flowers(project(tmp_path, include))


def test_a_linked_room_is_none(tmp_path: Path) -> None:
    folder = project(tmp_path / "made", 'fab-include = ["room/**/*.py", "way/*.py"]')
    (folder / "way").symlink_to(folder / "other")
    assert_as_flowers(folder)


def assert_as_flowers(folder: Path) -> None:
    """The same bytes, or the same mistake."""
    try:
        theirs = build_fab_from_disk(folder)
    except ValueError as error:
        with pytest.raises(ValueError) as ours:
            build_bundle(folder)
        assert str(ours.value) == str(error)
    else:
        assert build_bundle(folder) == theirs


def test_an_environment_beside_the_code_is_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project(tmp_path, ROOMS)
    entered: list[str] = []
    collect = flwr.cli.utils.collect_files

    def noted(root: Path) -> dict[str, Path]:
        entered.append(root.name)
        return collect(root)

    monkeypatch.setattr(flwr.cli.utils, "collect_files", noted)
    build_bundle(folder)
    assert entered == ["other", "room"]


@pytest.mark.parametrize("text", [None, "not TOML [", "[tool.flwr]\napp = 3\n"])
def test_what_is_no_project_is_flowers_error(tmp_path: Path, text: str | None) -> None:
    folder = project(tmp_path, "")
    (folder / "pyproject.toml").unlink()
    if text is not None:
        (folder / "pyproject.toml").write_text(text)
    with pytest.raises(ValueError):
        build_bundle(folder)
