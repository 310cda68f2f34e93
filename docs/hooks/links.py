"""Links of the documents, which GitHub resolves in the repository, made to fit the site.

CONTRIBUTING.md and CHANGELOG.md lie at the repository's root and are pages of the site; a link to
any other file outside docs/ keeps its text.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!#|[a-z]+:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie at the repository's root."""
    for name, page in ROOT_PAGES.items():
        files.append(
            File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8"))
        )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of the repository's tree to pages of the site."""
    here = page.file.src_uri
    in_root = here in ROOT_PAGES.values()
    folder = "" if in_root else posixpath.join("docs", posixpath.dirname(here))

    def target(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        full = posixpath.normpath(posixpath.join(folder, path))
        if full in ROOT_PAGES:
            full = posixpath.join("docs", ROOT_PAGES[full])
        if not full.startswith("docs/"):
            return text
        start = "docs" if in_root else folder
        return f"[{text}]({posixpath.relpath(full, start)}{anchor})"

    return _LINK.sub(target, markdown)
