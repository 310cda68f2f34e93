"""`asdnet-centre run --study study.yaml`: start a study on the SuperLink and follow it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable, connect
from protocol.config.presets import PRESET_NAMES, preset
from protocol.config.study import ProtocolError, StudyProtocol, read_yaml
from protocol.wire.messages import RUN_NAME
from server.admin.centre import CENTRE, Centre, CentreError, read_centre, read_sites
from server.monitoring.follow import Outcome, follow, read_events
from server.monitoring.run_folder import RunError, RunFacts, RunFolder

APP = Path(__file__).resolve().parents[2]
# A supervisor may start the command again with --resume after the last of these.
_STATUS: dict[Outcome, int] = {
    "finished": 0,
    "stopped": 3,
    "failed": 4,
    "died": 75,
    "never started": 75,
}


def run(
    study: Annotated[Path | None, typer.Option(help="the study's protocol, a YAML file")] = None,
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"a protocol by name: {', '.join(PRESET_NAMES)}")
    ] = None,
    resume: Annotated[str, typer.Option(metavar="RUN", help="go on with this run")] = "",
    follow_only: Annotated[
        str, typer.Option("--follow", metavar="RUN", help="watch a run that is at work")
    ] = "",
    stop: Annotated[
        str, typer.Option(metavar="RUN", help="end a run; it can be resumed later")
    ] = "",
    name: Annotated[
        str, typer.Option(help="name of a new run; else the study's and the time")
    ] = "",
    sites: Annotated[
        int | None,
        typer.Option(
            min=1, help="begin as soon as so many sites are there; else all admitted ones"
        ),
    ] = None,
    mlflow_uri: Annotated[
        str, typer.Option(help="MLflow's tracking URI; else a store in the centre's folder")
    ] = "",
    centre: Annotated[Path, typer.Option(help="the centre's folder")] = CENTRE,
) -> None:
    """Start a study on this centre's SuperLink, or go on with one, and follow it.

    Ctrl-C ends the following, not the study. The status is 0 when the study has finished, 3 when
    it stopped early with a reason, 4 when it failed, 75 when its ServerApp died (use --resume).
    """
    console, errors = Console(emoji=False), Console(stderr=True, emoji=False)
    try:
        chosen = [bool(study or preset_name), bool(resume), bool(follow_only), bool(stop)]
        if sum(chosen) != 1:
            raise ProtocolError("give one of --study (or --preset), --resume, --follow and --stop")
        new_alone = {"--name": name, "--sites": sites, "--mlflow-uri": mlflow_uri}
        given = [option for option, value in new_alone.items() if value]
        if given and not (study or preset_name):
            raise ProtocolError(f"{', '.join(given)}: for a new run only; remove it")
        found = read_centre(centre)
        if study or preset_name:
            protocol = _protocol(study, preset_name)
            folder = _new(found, protocol, name, sites, mlflow_uri)
        else:
            folder = RunFolder(found.runs / (resume or follow_only or stop))
            folder.read()
        if stop:
            _stop(found, folder, console)
            return
        already = len(read_events(folder.events))
        if follow_only:
            already = 0
        else:
            try:
                _start(found, folder)
            except (SuperLinkRefused, SuperLinkUnreachable) as error:
                # It may have started after all: its answer was lost then.
                again = f"asdnet-centre run --resume {folder.path.name}"
                raise RunError(f"{error}\nThe run is made; start it with: {again}") from None
            console.print(f"run {folder.path.name}", highlight=False, soft_wrap=True)
    except (ProtocolError, CentreError, RunError, SuperLinkRefused, SuperLinkUnreachable) as error:
        errors.print(f"error: {error}", highlight=False, soft_wrap=True, style="red")
        raise typer.Exit(2) from None
    _follow(folder, already, console)


def _protocol(study: Path | None, name: str | None) -> StudyProtocol:
    if study and name:
        raise ProtocolError("give --study or --preset, not both")
    if study:
        return read_yaml(study, StudyProtocol)
    for known in PRESET_NAMES:
        if known == name:
            return preset(known)
    raise ProtocolError(f"--preset: must be one of {', '.join(PRESET_NAMES)}, not {name!r}")


def _new(
    centre: Centre, protocol: StudyProtocol, name: str, sites: int | None, mlflow_uri: str
) -> RunFolder:
    name = name or f"{protocol.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if not RUN_NAME.fullmatch(name):
        raise RunError(f"--name: must match {RUN_NAME.pattern}, not {name!r}")
    folder = RunFolder(centre.runs / name)
    uri = mlflow_uri or f"sqlite:///{centre.folder / 'mlflow.db'}"
    expected = sites or len(read_sites(centre)) or None
    folder.create(RunFacts(name=name, mlflow_uri=uri, expected_sites=expected), protocol)
    return folder


def _start(centre: Centre, folder: RunFolder) -> None:
    """Have the SuperLink start a ServerApp; what an earlier one left running is ended first."""
    facts, _ = folder.read()
    if folder.at_work():
        raise RunError(f"run {facts.name}: a ServerApp is at work on it; use --follow")
    with connect(centre.port, centre.ca_file) as control:
        if facts.flower_run_id is not None:
            control.stop_run(facts.flower_run_id)
        number = control.start_run(APP, {"run": facts.name})
    folder.write(facts.model_copy(update={"flower_run_id": number}))


def _stop(centre: Centre, folder: RunFolder, console: Console) -> None:
    facts, _ = folder.read()
    with connect(centre.port, centre.ca_file) as control:
        stopped = facts.flower_run_id is not None and control.stop_run(facts.flower_run_id)
    words = "stopped" if stopped else "was not running"
    console.print(f"run {facts.name}: {words}; go on with: --resume {facts.name}")


def _follow(folder: RunFolder, already: int, console: Console) -> None:
    name = folder.path.name
    again = f"asdnet-centre run --resume {name}"
    try:
        outcome, reason = follow(folder, console, already=already)
    except KeyboardInterrupt:
        console.print(f"the study goes on; watch it again: asdnet-centre run --follow {name}")
        raise typer.Exit(0) from None
    if outcome == "finished":
        later = f"\n{reason}. Send them later with: {again}" if reason else ""
        console.print(f"finished: {folder.path}{later}", highlight=False, soft_wrap=True)
    elif outcome == "stopped":
        console.print(
            f"stopped: {reason}\nAll complete rounds are saved. Go on with: {again}",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(
            f"{outcome}: {reason}\nThe SuperLink's log says more. Complete rounds are saved. "
            f"Go on with: {again}",
            highlight=False,
            soft_wrap=True,
        )
    raise typer.Exit(_STATUS[outcome])
