"""Flower's app bundle (FAB) of a project folder, as `flwr run` would send it."""

from pathlib import Path


def build_bundle(root: Path) -> bytes:
    """The zip of all files that the project's pyproject.toml includes.

    Raises:
        OSError, ValueError: If no bundle can be made of the folder.
    """
    # Late: it takes a second.
    from flwr.cli.build import build_fab_from_disk

    return build_fab_from_disk(root)
