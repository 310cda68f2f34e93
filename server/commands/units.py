"""`asdnet-centre units`: unit files of the centre's services."""

from pathlib import Path
from typing import Annotated

import typer

from reporting.terminal import make_console, user_errors
from reporting.unit_files import Unit, UnitError, program, user_of_service, write_units
from server.admin.centre import CENTRE, Centre, CentreError, read_centre

_LOOPBACK = "127.0.0.1"
_PRIVILEGED = 1024
_SUPERLINK = "asdnet-superlink"


def units(
    out: Annotated[Path, typer.Option(help="Folder for the files.")],
    user: Annotated[
        str | None, typer.Option(help="Who runs the services; else who gives this command.")
    ] = None,
    mlflow_port: Annotated[
        int, typer.Option(min=1024, max=65535, help="Port of MLflow, on 127.0.0.1 alone.")
    ] = 5000,
    centre: Annotated[Path, typer.Option(help="The centre's folder.")] = CENTRE,
) -> None:
    """Write unit files for systemd: the SuperLink, the studies, and MLflow.

    They start the programs of this environment, in this working directory.
    """
    with user_errors(CentreError, UnitError):
        made = units_of(read_centre(centre), user_of_service(user), mlflow_port)
        for line in write_units(out, made):
            make_console().print(line)


def units_of(centre: Centre, user: str, mlflow_port: int) -> list[Unit]:
    """The three services of a centre."""
    own = program("asdnet-centre", "server.cli")
    folder = str(centre.folder)
    writable = (centre.folder,)
    # Where a service notes what it did not expect.
    environment = {"XDG_STATE_HOME": str(centre.logs)}
    no_gpu = ("PrivateDevices=yes", "RestrictNamespaces=yes")
    return [
        Unit(
            name=_SUPERLINK,
            description="ASDNet: SuperLink of the federation",
            command=(*own, "superlink", "--centre", folder),
            user=user,
            writable=writable,
            environment=environment,
            options=(*no_gpu, "LimitNOFILE=65536", *_low_port(centre.port)),
        ),
        Unit(
            name="asdnet-studies",
            description="ASDNet: studies that go on by themselves, and alerts",
            command=(*own, "serve", "--centre", folder),
            user=user,
            writable=writable,
            environment=environment,
            options=(*no_gpu, f"EnvironmentFile=-{centre.folder / 'alerts.env'}"),
            after=(f"{_SUPERLINK}.service",),
        ),
        _mlflow(centre, user, mlflow_port),
    ]


def _mlflow(centre: Centre, user: str, port: int) -> Unit:
    return Unit(
        name="asdnet-mlflow",
        description="ASDNet: MLflow of the centre, for this machine alone",
        command=(
            *program("mlflow", "mlflow"),
            *("server", "--host", _LOOPBACK, "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{centre.folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(centre.folder / "mlartifacts")),
        ),
        user=user,
        writable=(centre.folder,),
        environment={
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        options=(
            "PrivateDevices=yes",
            "RestrictNamespaces=yes",
            "# Nobody outside, in either direction.",
            "IPAddressDeny=any",
            "IPAddressAllow=localhost",
        ),
    )


def _low_port(port: int) -> tuple[str, ...]:
    """The one right that a port below 1024 needs."""
    if port >= _PRIVILEGED:
        return ()
    right = "CAP_NET_BIND_SERVICE"
    return (f"CapabilityBoundingSet={right}", f"AmbientCapabilities={right}")
