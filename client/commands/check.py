"""`asdnet-site check --site A`: is all our data used, and why was this case dropped?

Every case is read as training would read it.  Names of cases are shown in a terminal alone, unless
asked for; what is written (--html, --json, a file or a pipe) names them by pseudonyms, and what a
centre is told is counts (--for-centre) and, for a plan, means (--fingerprint).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.site_file import open_site
from client.data.pseudonyms import (
    KEY_FILE,
    PseudonymKeyError,
    Pseudonyms,
    read_or_make_key,
)
from client.node.last_study import last_study
from protocol.config.presets import preset
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.config.study_file import read_study
from protocol.escaping import printable
from reporting.terminal import fail, make_console, user_errors

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from client.datacheck.inspection import CaseReport, Status
    from client.datacheck.site import SiteCheck
    from client.datacheck.summary import Summary

PAGE = "check.html"
_STYLES: dict["Status", str] = {"used": "green", "refused": "bold red", "excluded": "yellow"}


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What `check` can be asked for."""

    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")]
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS
    study: Annotated[
        Path | None,
        typer.Option(help="Study to check against (YAML); else the one last heard of, or paper."),
    ] = None
    html: Annotated[
        Path | None, typer.Option(help=f"Page with pictures; else {PAGE} in the state folder.")
    ] = None
    page: Annotated[bool, typer.Option("--page/--no-page", help="Draw and write the page.")] = True
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON with pseudonyms, and no page.")
    ] = False
    for_centre: Annotated[
        bool, typer.Option("--for-centre", help="Print exactly what the centre is told.")
    ] = False
    fingerprint: Annotated[
        bool, typer.Option("--fingerprint", help="Print exactly what is told for a plan.")
    ] = False
    who: Annotated[
        str | None, typer.Option(metavar="PSEUDONYM", help="Print which case has this pseudonym.")
    ] = None
    names: Annotated[
        bool, typer.Option("--names", help="Print the cases' names outside a terminal too.")
    ] = False
    workers: Annotated[int, typer.Option(min=1, help="Cases read at the same time.")] = min(
        4, os.cpu_count() or 1
    )


def check(options: CheckOptions) -> None:
    """Check every case of this site against the study; exit status 1 if one is not used.

    Nothing is sent.  Cases that the site's file excludes are no mistake.  A study that this site's
    limits forbid is exit status 1 too.
    """
    # Late, so that --help and mistakes of usage do not wait for PyTorch.
    from client.data.blocks import CohortFileError
    from client.datacheck.page import write_page
    from client.datacheck.site import check_site
    from client.datacheck.summary import summarise

    console = make_console(stderr=options.as_json or options.for_centre)
    with user_errors(ProtocolError, PseudonymKeyError, CohortFileError):
        config = open_site(options.configs / f"{options.site}.yaml")
        agreed, which, asked = _protocol(config, options.study)
        pseudonyms = Pseudonyms(read_or_make_key(config.state / KEY_FILE))
        if options.who is not None or options.fingerprint:
            _print_alone(config, agreed, options.workers, pseudonyms, options.who)
            return
        quiet = options.as_json or options.for_centre
        named = options.names or console.is_terminal
        with _progress(console, pseudonyms, quiet=quiet, named=named) as tell:
            look = partial(check_site, config, agreed, progress=tell, begin=tell.begin)
            site_check = look(
                workers=options.workers,
                pictures=options.page and not quiet,
                boxes=options.for_centre,
            )
        summary = summarise(site_check, agreed)
        if quiet:
            _print_json(
                site_check, summary, agreed, pseudonyms, config, for_centre=options.for_centre
            )
        else:
            unnamed = None if named else pseudonyms
            _print_summary(console, config, site_check, summary, agreed, which, unnamed)
        if options.page and not quiet:
            path = options.html or config.state / PAGE
            write_page(path, config.site, which, site_check, summary, agreed, pseudonyms)
            console.print(f"page: {path}")
    raise typer.Exit(1 if site_check.refused or (asked and _broken(config, agreed)) else 0)


def _broken(config: SiteConfig, agreed: StudyProtocol) -> list[str]:
    from client.node.guard.data_limits import all_broken

    return all_broken(config, agreed)


def _protocol(config: SiteConfig, study: Path | None) -> tuple[StudyProtocol, str, bool]:
    """The study to check against, what to call it, and whether anybody has asked for it."""
    if study is not None:
        given = read_study(study)
        return given, f"study {given.name}", True
    last, note = last_study(config)
    if last is not None:
        return last, f"study {last.name}, last heard of", True
    why = "what is kept of the last study is none" if note else "no study was heard of yet"
    return preset("paper"), f"preset paper: {why}; --study names another", False


def _print_who(pseudonym: str, config: SiteConfig, pseudonyms: Pseudonyms) -> None:
    from client.data.folder.layout import survey_folder

    survey = survey_folder(config.data, config)
    names = {case.name for case in [*survey.cases, *survey.excluded]}
    names |= {refusal.case for refusal in survey.refused}
    matches = [name for name in sorted(names) if name and pseudonyms.of(name) == pseudonym]
    if not matches:
        fail(f"{pseudonym}: is no case of this site's folder and key")
    make_console().print(matches[0])


def _print_alone(
    config: SiteConfig,
    agreed: StudyProtocol,
    workers: int,
    pseudonyms: Pseudonyms,
    who: str | None,
) -> None:
    """Whose a pseudonym is; else the fingerprint as it would leave, and nothing noted as gone."""
    if who is not None:
        _print_who(who, config, pseudonyms)
        return
    from client.datacheck.fingerprint import site_fingerprint, with_machine
    from protocol.wire.fingerprint import fingerprint_values

    found, _ = site_fingerprint(config, agreed, workers=workers)
    print(json.dumps(fingerprint_values(with_machine(found, config)), indent=2, sort_keys=True))


class _Teller:
    """A line for each case, and in a terminal a bar below them."""

    def __init__(
        self,
        console: "Console",
        progress: "Progress",
        pseudonyms: Pseudonyms,
        *,
        quiet: bool,
        named: bool,
    ) -> None:
        self._console, self._progress, self._quiet = console, progress, quiet
        self._pseudonyms, self._named = pseudonyms, named
        self._task = progress.add_task("reading the cases", total=None)

    def begin(self, count: int) -> None:
        self._progress.update(self._task, total=count)

    def __call__(self, report: "CaseReport") -> None:
        from rich.text import Text

        from client.datacheck.text import case_line

        if report.part is not None and report.status != "excluded":
            self._progress.advance(self._task)
        if not self._quiet:
            line = Text(f"{report.status:9}", _STYLES[report.status])
            said = case_line(report, self._pseudonyms.of(report.name), named=self._named)
            self._console.print(line + said, soft_wrap=True)


@contextmanager
def _progress(
    console: "Console", pseudonyms: Pseudonyms, *, quiet: bool, named: bool
) -> Iterator[_Teller]:
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        yield _Teller(console, p, pseudonyms, quiet=quiet, named=named)


def _print_json(
    site_check: "SiteCheck",
    summary: "Summary",
    agreed: StudyProtocol,
    pseudonyms: Pseudonyms,
    config: SiteConfig,
    *,
    for_centre: bool,
) -> None:
    from client.datacheck.text import json_of
    from protocol.wire.messages import facts_metrics

    if for_centre:
        print(json.dumps(facts_metrics(site_check.facts, agreed), indent=2, sort_keys=True))
    else:
        content = json_of(site_check, summary, agreed, pseudonyms)
        print(json.dumps(content | {"broken_limits": _broken(config, agreed)}, indent=2))


def _print_summary(
    console: "Console",
    config: SiteConfig,
    site_check: "SiteCheck",
    summary: "Summary",
    agreed: StudyProtocol,
    which: str,
    unnamed: Pseudonyms | None,
) -> None:
    from rich.text import Text

    from client.datacheck.text import summary_lines

    console.print()
    console.print(f"site {config.site}, against {which}", soft_wrap=True)
    for heading, text in summary_lines(site_check, summary, agreed, unnamed):
        console.print(Text(f"{heading:21}", "bold") + printable(text), soft_wrap=True)
    broken = _broken(config, agreed)
    for line in broken or ["the study is within all of this site's"]:
        shown = printable(line)
        said = Text(f"BROKEN: {shown}", "bold red") if broken else Text(shown)
        console.print(Text(f"{'limits':21}", "bold") + said, soft_wrap=True)
    counts = Counter(report.status for report in site_check.reports)
    told = ", ".join(f"{counts[status]} {status}" for status in _STYLES if counts[status])
    console.print(f"in all: {told or 'nothing is there'}", style="bold")
