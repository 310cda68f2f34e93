"""Renders sections as one HTML file that needs no network, no script and no other file.

The centre's live page is made with the same templates' settings and style.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import (
    BaseLoader,
    ChoiceLoader,
    Environment,
    FileSystemLoader,
    PackageLoader,
    StrictUndefined,
)

from protocol.escaping import printable_text
from reporting import palette
from reporting.blocks import Section, Text

# Where the templates are for a program whose own copy of this package is code alone: a ServerApp
# runs from the bundle that sites have approved.
TEMPLATES_VARIABLE = "ASDNET_TEMPLATES"
TEMPLATES = Path(__file__).resolve().parent


def render_page(
    title: str, subtitle: str, sections: Sequence[Section], notices: Sequence[Text] = ()
) -> str:
    """The page.

    Args:
        title: Of the document.
        subtitle: One line below it.
        sections: In order; their titles become the contents.
        notices: What holds for all of it; shown at the top.
    """
    page = make_environment().get_template("page.html")
    return page.render(title=title, subtitle=subtitle, sections=sections, notices=notices)


def make_environment(*packages: str) -> Environment:
    """Templates of these packages and of this one; whatever they show is escaped."""
    loaders: list[BaseLoader] = [PackageLoader(name, ".") for name in (*packages, "reporting")]
    if elsewhere := os.environ.get(TEMPLATES_VARIABLE):
        loaders.append(FileSystemLoader(elsewhere))
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["palette"] = palette
    return environment


def _printable(value: object) -> object:
    """Text of others without bidirectional and control characters; HTML's own are escaped after."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return printable_text(value)
    return value
