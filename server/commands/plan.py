"""`asdnet-centre plan`: a study planned from what the joined sites say of their data."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asdnet_models.organs import parse_organs
from protocol.agreement.bundle import BundleError
from protocol.config.presets import preset
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.config.study_file import read_study
from protocol.config.training import MOST
from protocol.keys import KeyFileError
from protocol.planning.budget import Budget, PlanError
from protocol.planning.rules import MEMORY, ROUNDS
from reporting.terminal import make_console, user_errors
from server.admin.centre import CENTRE, Centre, CentreError, names_of, read_centre

if TYPE_CHECKING:
    from rich.console import Console

    from protocol.planning.fingerprint import Fingerprint
    from server.monitoring.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What `plan` can be asked for."""

    sites: Annotated[
        str, typer.Option(metavar="A,B,C", help="The sites to ask; all of them must answer.")
    ]
    minutes_a_round: Annotated[
        float, typer.Option(help="Minutes that a round may take at the slowest site.")
    ]
    organs: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE,...", help="As bladder=1,prostate=2; else --study's."),
    ] = None
    study: Annotated[
        Path | None,
        typer.Option(help="A study whose planned values are replaced; else the preset planned."),
    ] = None
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="What a step may take at the weakest site, as 4GiB.")
    ] = MEMORY
    rounds: Annotated[
        int | None, typer.Option(min=1, max=MOST, help=f"Rounds of the study; else {ROUNDS}.")
    ] = None
    wait_minutes: Annotated[
        float, typer.Option(help="Minutes that sites and their approvals are waited for.")
    ] = 10.0
    out: Annotated[Path, typer.Option(help="The study file that is written; none is replaced.")] = (
        Path("study.yaml")
    )
    study_key: Annotated[
        Path | None,
        typer.Option(help="The key that studies are signed with; else study.key of the centre."),
    ] = None
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE

    @property
    def names(self) -> tuple[str, ...]:
        """The sites, each once.

        Raises:
            PlanError: There is none.
        """
        names = names_of(self.sites)
        if not names:
            raise PlanError("--sites: names no site; write them as A,B,C")
        return names

    @property
    def budget(self) -> Budget:
        """What the study may take.

        Raises:
            PlanError: It is none.
        """
        return Budget.given(self.memory, self.minutes_a_round, self.rounds)


def plan(options: PlanOptions) -> None:
    """Ask sites what their data are like, plan a study, and write it with all its reasons.

    Each site approves the request once (asdnet-site approve), or refuses it by `limits:
    fingerprint: false`. Nothing is trained. Where a site does not answer, nothing is written.
    """
    from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
    from server.monitoring.run_folder import RunError

    console = make_console()
    mistakes = (ProtocolError, CentreError, KeyFileError, BundleError, RunError, PlanError)
    with user_errors(*mistakes, SuperLinkRefused, SuperLinkUnreachable):
        from protocol.planning.plan import plan_study
        from protocol.planning.yaml_writer import check_out, plan_yaml, write_study

        check_out(options.out)
        base, budget = _base(options), options.budget
        folder = _asked(read_centre(options.centre), options, base, console)
        planned = plan_study(_fingerprints(folder), budget, base)
        for line in planned.summary:
            console.print(line, highlight=False, soft_wrap=True)
        write_study(options.out, plan_yaml(planned, base))
        console.print(
            f"study: {options.out}\nRead it, then: asdnet-centre run --study {options.out}",
            highlight=False,
            soft_wrap=True,
        )


def _base(options: PlanOptions) -> StudyProtocol:
    """What is planned on."""
    from protocol.planning.yaml_writer import study_name

    base = read_study(options.study) if options.study else preset("planned")
    if not options.study:
        base = base.model_copy(update={"name": study_name(options.out.stem)})
    if options.organs is not None:
        try:
            organs = parse_organs(options.organs)
        except ValueError as error:
            raise PlanError(f"--organs: {error}") from None
        return base.model_copy(update={"organs": organs})
    if options.study is None:
        raise PlanError("--organs: say what is segmented, as bladder=1,prostate=2; or give --study")
    return base


def _asked(
    centre: Centre, options: PlanOptions, base: StudyProtocol, console: "Console"
) -> "RunFolder":
    """The run that has asked the sites, once all of them have answered.

    Raises:
        PlanError: One has not.
    """
    from flower_compat.bundle import build_bundle
    from server.admin.agreement import agree, require_ready
    from server.monitoring.follow import follow
    from server.monitoring.run_folder import RunFacts, RunFolder
    from server.service.starting import APP, start_run

    require_ready(centre, options.study_key, options.names)
    folder = RunFolder(centre.runs / f"plan-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    name = folder.path.name
    facts = RunFacts(name=name, mlflow_uri="", asks="fingerprint", sites=options.names)
    folder.create(facts, _survey_study(base, options))
    bundle = build_bundle(APP)
    agreed = agree(centre, folder, bundle, options.study_key)
    start_run(centre, folder, bundle)
    console.print(
        f"run {name}: asks {', '.join(options.names)} for fingerprints"
        f" (study {agreed.study.digest[:12]}, which each site approves once)",
        highlight=False,
        soft_wrap=True,
    )
    outcome, reason = follow(folder, console)
    if outcome != "finished":
        raise PlanError(f"{outcome}: {reason}")
    return folder


def _survey_study(base: StudyProtocol, options: PlanOptions) -> StudyProtocol:
    """What the sites are asked about: organs and data requirements; nothing of it is trained."""
    small = preset("quick")
    waited = {"join_timeout_s": 60 * options.wait_minutes, "min_sites": len(options.names)}
    return small.model_copy(
        update={
            "name": "fingerprint",
            "organs": base.organs,
            "contract": base.contract,
            "aggregation": small.aggregation.model_copy(update=waited),
        }
    )


def _fingerprints(folder: "RunFolder") -> dict[str, "Fingerprint"]:
    from protocol.planning.fingerprint import Fingerprint

    said = json.loads(folder.fingerprints.read_text(encoding="utf-8"))
    return {site: Fingerprint.model_validate(content) for site, content in said.items()}
