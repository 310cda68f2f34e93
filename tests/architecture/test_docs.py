"""Documents: every link resolves, and the site builds without a warning and without the network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_and_image_is_a_file(document: Path) -> None:
    targets = _LINK.findall(document.read_text(encoding="utf-8"))
    relative = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:", t)]
    missing = [path for path in relative if path and not (document.parent / path).exists()]
    assert not missing


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
    loads = re.compile(r"""<(?:script|img|iframe)[^>]* src="?(https?:[^"\s>]+)|<link[^>]*>""")
    for page in site.rglob("*.html"):
        for tag in loads.finditer(page.read_text(encoding="utf-8")):
            outside = re.search(r"""(?:href|src)="?(?:https?:)?//""", tag[0])
            assert not outside or 'rel="canonical"' in tag[0], (page, tag[0])
