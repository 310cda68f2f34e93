"""Renders sections as one HTML file that needs no network, no script and no other file."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from reporting import palette
from reporting.blocks import Section, Text


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
    environment = Environment(
        loader=PackageLoader("reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html")
    return page.render(
        title=title, subtitle=subtitle, sections=sections, notices=notices, palette=palette
    )
