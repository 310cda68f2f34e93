"""Names of files and folders that somebody chose to write to a terminal, in what `check` shows."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from client.cli import app
from protocol.config.site import SiteConfig

NAMES = {
    "escape": "a\x1b[2J\x1b]0;owned\x07b",
    "line end": "a\nerror: all cases are fine",
    "bidirectional": "a\u202egz.iin\u2066b",
    "markup": "a[red]b:smile:",
    "html": "a<script>alert(1)<!--",
    "not UTF-8": os.fsdecode(b"a\xff\xfeb"),
    "C1": "a\x9b31mb",
}


def clean(text: str) -> bool:
    return all(c in "\n\t" or c.isprintable() for c in text)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_hostile_name_is_shown_as_what_it_is(
    make_site: Callable[..., SiteConfig], tmp_path: Path, name: str
) -> None:
    config = make_site(labelled=1)
    for folder, ending in (("imagesTr", ".nii.gz"), ("imagesUn", ".nrrd"), ("labelsTr", ".nii")):
        (config.data / folder).mkdir(exist_ok=True)
        (config.data / folder / f"{name}{ending}").write_bytes(b"no scan")
    (config.data / name).mkdir()
    site = {"site": config.site} | {
        key: str(getattr(config, key)) for key in ("data", "cache", "state")
    }
    site["exclude"] = {name.encode(errors="replace").decode(): f"why {name!a}"}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{config.site}.yaml").write_text(yaml.safe_dump(site))
    given = ["check", "--site", config.site, "--configs", str(tmp_path / "configs")]
    page = tmp_path / "check.html"
    shown = CliRunner().invoke(app, [*given, "--names", "--workers", "1", "--html", str(page)])
    assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
    assert clean(shown.output), shown.output
    assert "\nerror: all cases are fine" not in shown.stdout
    text = page.read_text(encoding="utf-8")
    assert clean(text) and "<script>alert" not in text
    machine = CliRunner().invoke(app, [*given, "--workers", "1", "--json"])
    # Of names it has none at all.
    assert machine.output.isascii() and clean(machine.output)
