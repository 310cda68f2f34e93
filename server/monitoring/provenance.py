"""Which version of this software a study ran with: its release, and the commit of a checkout."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = "asdnet-federated"
_GIT_S = 5.0


def own_version() -> str:
    """The release; "": it is not installed, but run from its sources."""
    try:
        return version(_PACKAGE)
    except PackageNotFoundError:
        return ""


def own_commit(root: Path = _ROOT) -> str:
    """The commit that is checked out here, with "+changes" where files differ from it.

    "": this is no checkout, as in a container image or in the bundle that a ServerApp runs from.
    """
    if not (root / ".git").exists():  # else git would take a repository that this lies in
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+changes" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
        timeout=_GIT_S,
    )
    return done.stdout.strip()
