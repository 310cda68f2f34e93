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
from server.admin.centre import CENTRE, Centre, CentreError, read_centre, read_sites
from server.admin.owner import read_owner_token
from server.admin.provisioning import centre_option

if TYPE_CHECKING:
    from rich.console import Console

    from server.monitoring.run_folder import RunFolder

APP = Path(__file__).resolve().parents[2]
# A supervisor may start the command again with --resume after the last of these.
_STATUS = {
    "finished": 0,
    "stopped": 3,
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
        }
        given = [option for option, value in of_new_runs.items() if value]
        if given and not self.new:
            raise ProtocolError(f"{', '.join(given)}: for a new run only; remove it")
        of_starts = {"--prepare": self.prepare, "--study-key": self.study_key}
        given = [option for option, value in of_starts.items() if value]
        if given and (self.follow_only or self.stop):
            raise ProtocolError(f"{', '.join(given)}: not with --follow or --stop; remove it")


def run(options: RunOptions) -> None:
    """Start a study on this centre's SuperLink, or go on with one, and follow it.

    Each study is signed for the sites that take part, and every site approves it once. Ctrl-C ends
    the following, not the study. The status is 0 when the study has finished, 3 when it stopped
    early with a reason, 4 when it failed, 75 when its ServerApp died (use --resume).
    """
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
    from server.monitoring.follow import read_events
    from server.monitoring.run_folder import RunError, RunFolder

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
            folder.read()
        if options.stop:
            _stop(home, folder, console)
            return
        already = 0 if options.follow_only else len(read_events(folder.events))
        if not options.follow_only:
            bundle = _sign(home, folder, options, console)
            if options.prepare:
                return
            start_run(home, folder, bundle)
            console.print(f"run {folder.path.name}")
    _follow(folder, already, console)


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
    from server.monitoring.run_folder import RunError, RunFacts, RunFolder

    protocol = _protocol(options.study, options.preset_name)
    name = options.name or f"{protocol.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if not RUN_NAME.fullmatch(name):
        raise RunError(f"--name: must match {RUN_NAME.pattern}, not {name!r}")
    require_ready(centre, options.study_key)
    folder = RunFolder(centre.runs / name)
    uri = options.mlflow_uri or f"sqlite:///{centre.folder / 'mlflow.db'}"
    expected = options.sites or len(read_sites(centre))
    folder.create(RunFacts(name=name, mlflow_uri=uri, expected_sites=expected), protocol)
    print_notes(console, idle_settings(protocol))
    return folder


def _sign(centre: Centre, folder: "RunFolder", options: RunOptions, console: "Console") -> bytes:
    """The app bundle to be sent, once the run's study is signed for exactly this bundle."""
    from flower_compat.bundle import build_bundle
    from server.admin.agreement import agree
    from server.monitoring.run_folder import RunError

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


def start_run(centre: Centre, folder: "RunFolder", bundle: bytes) -> None:
    """Have the SuperLink start a ServerApp; what an earlier one left running is ended first."""
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable, connect
    from server.monitoring.run_folder import RunError

    facts, _ = folder.read()
    try:
        with connect(centre.port, centre.ca_file, read_owner_token(centre)) as control:
            if facts.flower_run_id is not None:
                control.stop_run(facts.flower_run_id)
            number = control.start_run(bundle, {"run": facts.name})
    except (SuperLinkRefused, SuperLinkUnreachable) as error:
        # It may have started after all: its answer was lost then.
        if facts.asks == "fingerprint":
            raise RunError(str(error)) from None
        again = f"asdnet-centre run --resume {facts.name}"
        raise RunError(f"{error}\nThe run is made; start it with: {again}") from None
    folder.write(facts.model_copy(update={"flower_run_id": number}))


def _stop(centre: Centre, folder: "RunFolder", console: "Console") -> None:
    from flower_compat.control import connect

    facts, _ = folder.read()
    with connect(centre.port, centre.ca_file, read_owner_token(centre)) as control:
        stopped = facts.flower_run_id is not None and control.stop_run(facts.flower_run_id)
    if stopped:
        # Who follows it learns that it was ended on purpose, and starts nothing again.
        folder.add_event("stopped", reason="by asdnet-centre run --stop")
    words = "stopped" if stopped else "was not running"
    console.print(f"run {facts.name}: {words}; go on with: --resume {facts.name}")


def _follow(folder: "RunFolder", already: int, console: "Console") -> None:
    from server.monitoring.follow import follow

    name = folder.path.name
    again = f"asdnet-centre run --resume {name}"
    try:
        outcome, reason = follow(folder, console, already=already)
    except KeyboardInterrupt:
        console.print(f"the study goes on; watch it again: asdnet-centre run --follow {name}")
        raise typer.Exit(0) from None
    if outcome == "finished":
        later = f"\n{reason}. Send them later with: {again}" if reason else ""
        console.print(f"finished: {folder.path}{later}")
    elif outcome == "stopped":
        console.print(f"stopped: {reason}\nAll complete rounds are saved. Go on with: {again}")
    else:
        console.print(
            f"{outcome}: {reason}\nThe SuperLink's log has more. Complete rounds are saved. "
            f"Go on with: {again}"
        )
    raise typer.Exit(_STATUS[outcome])
