"""What a site's commands write is their user's alone, whatever the machine's umask is."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from protocol.config.site import SiteConfig

ROOT = Path(__file__).parents[4]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "client" / "cli.py"), *map(str, arguments)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        umask=0,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def exposed(folder: Path) -> list[str]:
    """Files and folders that others can use."""
    return [
        f"{path.relative_to(folder)} {path.stat().st_mode & 0o777:o}"
        for path in folder.rglob("*")
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def test_keys_pages_and_results_are_private(
    make_site: Callable[..., SiteConfig], tmp_path: Path
) -> None:
    config = make_site()
    site = {"site": config.site} | {
        name: str(getattr(config, name)) for name in ("data", "cache", "state")
    }
    site["centre"] = "centre.example.org:9092"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{config.site}.yaml").write_text(yaml.safe_dump(site))
    given = ("--site", config.site, "--configs", tmp_path / "configs")
    enrolled = command("enrol", *given)
    assert enrolled.returncode == 0, enrolled.stderr
    checked = command("check", *given, "--workers", 2, "--html", tmp_path / "page" / "check.html")
    assert checked.returncode in (0, 1), checked.stderr
    written = [config.state, config.cache, tmp_path / "page"]
    assert sum(len(list(folder.rglob("*"))) for folder in written if folder.exists()) >= 3
    for folder in written:
        if folder.exists():
            assert exposed(folder) == []
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
