"""`asdnet-centre run --study study.yaml`: start a study on the SuperLink and follow it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from protocol.agreement.bundle import BundleError
from protocol.config.idle import idle_settings
from protocol.config.presets import PRESET_NAMES, preset
from protocol.config.study import RUN_NAME, ProtocolError, StudyProtocol
from protocol.config.study_file import read_study
from protocol.keys import KeyFileError
from reporting.terminal import make_console, print_notes, user_errors
from server.admin.centre import (
    CENTRE,
    Centre,
    CentreError,
    names_of,
    read_centre,
    read_sites,
)
from server.admin.provisioning import centre_option
from server.admin.study_file import edited_study

if TYPE_CHECKING:
    from rich.console import Console

    from server.monitoring.run_folder import RunFolder

# A supervisor may start the command again with --resume after the last of these.
_STATUS = {
    "finished": 0,
    "stopped": 3,
    "paused": 3,
    "failed": 4,
    "died": 75,
    "never started": 75,
}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `run` can be asked for."""

    study: Annotated[Path | None, typer.Option(help="The study, a YAML file.")] = None
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"A study by name: {', '.join(PRESET_NAMES)}.")
    ] = None
    resume: Annotated[str, typer.Option(metavar="RUN", help="Go on with this run.")] = ""
    follow_only: Annotated[
        str, typer.Option("--follow", metavar="RUN", help="Watch a run that is at work.")
    ] = ""
    stop: Annotated[
        str, typer.Option(metavar="RUN", help="End a run; it can be resumed later.")
    ] = ""
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Make and sign the run, with --study or --resume, and do not start it: for "
            "hospitals to approve it first.",
        ),
    ] = False
    queue: Annotated[
        bool,
        typer.Option(
            "--queue",
            help="Make and sign the run, with --study or --resume, and leave its start to "
            "asdnet-centre serve, when it has its turn.",
        ),
    ] = False
    priority: Annotated[
        int | None,
        typer.Option(min=-100, max=100, help="Of several studies the highest works first; else 0."),
    ] = None
    only: Annotated[
        str,
        typer.Option(metavar="A,B,C", help="Sites that a new run may call; else all admitted."),
    ] = ""
    name: Annotated[str, typer.Option(help="Name of a new run; else the study's and the time.")] = (
        ""
    )
    sites: Annotated[
        int | None,
        typer.Option(
            min=1, help="Begin as soon as so many sites are there; else all admitted ones."
        ),
    ] = None
    mlflow_uri: Annotated[
        str, typer.Option(help="MLflow's tracking URI; else a store in the centre's folder.")
    ] = ""
    study_key: Annotated[
        Path | None,
        typer.Option(help="The key that studies are signed with; else study.key of the centre."),
    ] = None
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE

    @property
    def new(self) -> bool:
        """Whether a run is to be made."""
        return bool(self.study or self.preset_name)

    def check(self) -> None:
        """Raises ProtocolError for options that do not go together."""
        if sum((self.new, bool(self.resume), bool(self.follow_only), bool(self.stop))) != 1:
            raise ProtocolError("give one of --study (or --preset), --resume, --follow and --stop")
        of_new_runs = {
            "--name": self.name,
            "--sites": self.sites,
            "--mlflow-uri": self.mlflow_uri,
            "--only": self.only,
        }
        given = [option for option, value in of_new_runs.items() if value]
        if given and not self.new:
            raise ProtocolError(f"{', '.join(given)}: for a new run only; remove it")
        of_starts = {
            "--prepare": self.prepare,
            "--queue": self.queue,
            "--priority": self.priority is not None,
            "--study-key": self.study_key,
        }
        given = [option for option, value in of_starts.items() if value]
        if given and (self.follow_only or self.stop):
            raise ProtocolError(f"{', '.join(given)}: not with --follow or --stop; remove it")
        if self.prepare and self.queue:
            raise ProtocolError("--prepare, --queue: give one; a run that waits is signed too")


def run(options: RunOptions) -> None:
    """Start a study on this centre's SuperLink, or go on with one, and follow it.

    Each study is signed for the sites that take part, and every site approves it once. Ctrl-C ends
    the following, not the study. The status is 0 when the study has finished, 3 when it stopped
    early with a reason, 4 when it failed, 75 when its ServerApp died (use --resume).
    """
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
    from server.monitoring.follow import read_events
    from server.monitoring.run_folder import RunError, RunFolder
    from server.service.starting import start_run
    from server.service.steering import is_kept

    console = make_console()
    mistakes = (ProtocolError, CentreError, KeyFileError, BundleError, RunError)
    with user_errors(*mistakes, SuperLinkRefused, SuperLinkUnreachable):
        options.check()
        home = read_centre(options.centre)
        if options.new:
            folder = _new(home, options, console)
        else:
            named = options.resume or options.follow_only or options.stop
            folder = RunFolder(home.runs / named)
            facts, protocol = folder.read()
            if options.resume:
                print_notes(console, edited_study(facts.study_file, protocol))
        if options.stop:
            _stop(home, folder, console)
            return
        already = 0 if options.follow_only else len(read_events(folder.events))
        if not options.follow_only:
            bundle = _sign(home, folder, options, console)
            if options.prepare:
                return
            kept = is_kept(home)
            if not (kept or options.queue):
                start_run(home, folder, bundle)
            _want(folder, options.priority)
            turn = ": starts when it has its turn at asdnet-centre serve"
            console.print(f"run {folder.path.name}{turn if kept or options.queue else ''}")
            if options.queue:
                return
    _follow(home, folder, already, console)


def _want(folder: "RunFolder", priority: int | None) -> None:
    """From now on the service, where there is one, keeps the run going."""
    from server.monitoring.wanted import want
    from server.service.steering import prioritise

    want(folder.path, "running")
    if priority is not None:
        prioritise(folder, priority)


def _protocol(study: Path | None, name: str | None) -> StudyProtocol:
    if study and name:
        raise ProtocolError("give --study or --preset, not both")
    if study:
        return read_study(study)
    for known in PRESET_NAMES:
        if known == name:
            return preset(known)
    raise ProtocolError(f"--preset: must be one of {', '.join(PRESET_NAMES)}, not {name!r}")


def _new(centre: Centre, options: RunOptions, console: "Console") -> "RunFolder":
    from server.admin.agreement import require_ready
    from server.monitoring.provenance import own_commit
    from server.monitoring.run_folder import RunError, RunFacts, RunFolder

    protocol = _protocol(options.study, options.preset_name)
    name = options.name or f"{protocol.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if not RUN_NAME.fullmatch(name):
        raise RunError(f"--name: must match {RUN_NAME.pattern}, not {name!r}")
    require_ready(centre, options.study_key, names_of(options.only) or None)
    folder = RunFolder(centre.runs / name)
    sites = names_of(options.only) or None
    least = protocol.aggregation.min_sites
    if sites and len(sites) < least:
        raise ProtocolError(
            f"--only: names {len(sites)} sites, and the study needs {least}"
            " (aggregation.min_sites); name more of them, or lower it"
        )
    facts = RunFacts(
        name=name,
        mlflow_uri=options.mlflow_uri or f"sqlite:///{centre.folder / 'mlflow.db'}",
        expected_sites=options.sites or len(sites or read_sites(centre)),
        sites=sites,
        study_file=options.study and options.study.resolve(),
        commit=own_commit(),
    )
    folder.create(facts, protocol)
    print_notes(console, idle_settings(protocol))
    return folder


def _sign(centre: Centre, folder: "RunFolder", options: RunOptions, console: "Console") -> bytes:
    """The app bundle to be sent, once the run's study is signed for exactly this bundle."""
    from flower_compat.bundle import build_bundle
    from server.admin.agreement import agree
    from server.monitoring.run_folder import RunError
    from server.service.starting import APP

    name = folder.path.name
    if folder.at_work():
        raise RunError(f"run {name}: a ServerApp is at work on it; use --follow")
    bundle = build_bundle(APP)
    agreed = agree(centre, folder, bundle, options.study_key)
    digest, revision = agreed.study.digest, agreed.study.manifest.revision
    if agreed.changes:
        console.print(
            f"run {name}: signed anew, as revision {revision}: {'; '.join(agreed.changes)}.\n"
            "Every site must approve it again."
        )
    if options.prepare:
        sites = ", ".join(agreed.study.manifest.sites)
        console.print(
            f"run {name}: signed, study {digest}\n  {folder.manifest}\n"
            f"Mail this file to each hospital ({sites}), which looks at it and approves it there:\n"
            f"  asdnet-site approve --site SITE --file {folder.manifest.name}\n"
            f"Then start it:\n  asdnet-centre run --resume {name}{centre_option(centre)}"
        )
    elif agreed.new:
        console.print(f"run {name}: signed, study {digest[:12]}; each site approves it once")
    return bundle


def _stop(centre: Centre, folder: "RunFolder", console: "Console") -> None:
    from server.service.steering import stop

    console.print(stop(centre, folder))


def _follow(centre: Centre, folder: "RunFolder", already: int, console: "Console") -> None:
    from server.monitoring.follow import follow
    from server.monitoring.wanted import read_wanted
    from server.service.steering import is_kept

    name = folder.path.name
    again = f"asdnet-centre run --resume {name}"

    def kept() -> bool:
        wanted = read_wanted(folder.path)
        return is_kept(centre) and wanted is not None and wanted.state == "running"

    try:
        outcome, reason = follow(folder, console, already=already, kept=kept)
    except KeyboardInterrupt:
        console.print(f"the study goes on; watch it again: asdnet-centre run --follow {name}")
        raise typer.Exit(0) from None
    if outcome == "finished":
        later = f"\n{reason}. Send them later with: {again}" if reason else ""
        console.print(f"finished: {folder.path}{later}")
    elif outcome in ("stopped", "paused"):
        saved = "All complete rounds are saved. " if _has_rounds(folder) else ""
        console.print(f"{outcome}: {reason}\n{saved}Go on with: {again}")
    else:
        console.print(
            f"{outcome}: {reason}\nThe SuperLink's log has more. "
            f"{'Complete rounds are saved. ' if _has_rounds(folder) else ''}Go on with: {again}"
        )
    raise typer.Exit(_STATUS[outcome])


def _has_rounds(folder: "RunFolder") -> bool:
    from server.rounds.checkpoint import CHECKPOINT_FILE

    return (folder.path / CHECKPOINT_FILE).exists()
