"""The documentation's site builds without a warning, and needs nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asdnet_models

ROOT = Path(__file__).parents[3]
ROOMS = "asdnet_models|benchmarks|client|flower_compat|protocol|reporting|server|simulation|tests"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; the strict build fails on the first broken link, anchor or page."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_pages_load_nothing_from_elsewhere(site: Path) -> None:
    outside = re.compile(
        r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//"""
        r"""|@import\s*["']?http|url\(["']?http"""
    )
    assert outside.search('<link rel="stylesheet" href="https://fonts.example.org/css">')
    files = [file for suffix in ("html", "css") for file in site.rglob(f"*.{suffix}")]
    assert len(files) > 30
    for file in files:
        assert not outside.search(file.read_text(encoding="utf-8")), file


def test_the_site_has_every_public_name_of_the_library(site: Path) -> None:
    page = (site / "reference" / "python" / "asdnet_models.html").read_text(encoding="utf-8")
    for name in asdnet_models.__all__:
        assert f'id="asdnet_models.{name}"' in page, name


@pytest.mark.parametrize("folder", [".", "docs"])
def test_every_file_of_ours_that_a_document_names_is_there(folder: str) -> None:
    pages = (ROOT / folder).glob("*.md") if folder == "." else (ROOT / folder).rglob("*.md")
    for page in pages:
        if page.name != "CHANGELOG.md":
            named = re.findall(rf"\b(?:{ROOMS})/[\w/]+\.py\b", page.read_text(encoding="utf-8"))
            assert [path for path in named if not (ROOT / path).exists()] == [], page
