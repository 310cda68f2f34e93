"""`asdnet-site units --site A`: the unit file of a site's service."""

from pathlib import Path
from typing import Annotated

import typer

from client.commands.site_file import open_site
from protocol.config.site import SITE_CONFIGS, SiteConfig
from protocol.config.study import ProtocolError
from reporting.terminal import make_console, user_errors
from reporting.unit_files import Unit, UnitError, program, user_of_service, write_units


def units(
    site: Annotated[str, typer.Option(help="The site's name, as its file in --configs.")],
    out: Annotated[Path, typer.Option(help="Folder for the file.")],
    user: Annotated[
        str | None, typer.Option(help="Who runs the service; else who gives this command.")
    ] = None,
    configs: Annotated[Path, typer.Option(help="Folder of the sites' files.")] = SITE_CONFIGS,
) -> None:
    """Write a unit file for systemd, by which the site joins at every start of the machine.

    It starts the program of this environment, in this working directory, for the folders that the
    site's file names now; write it again when one of these has changed.
    """
    with user_errors(ProtocolError, UnitError):
        config = open_site(configs / f"{site}.yaml")
        made = unit_of(config, configs.resolve(), user_of_service(user))
        for line in write_units(out, [made]):
            make_console().print(line)


def unit_of(config: SiteConfig, configs: Path, user: str) -> Unit:
    """The service of one site.

    Raises:
        UnitError: A folder that the service writes is not there: it could not be started.
    """
    writable = (config.state, config.cache)
    for folder in writable:
        if not folder.is_dir():
            raise UnitError(
                f"{folder}: is not there, and the service could not make it; run:"
                f" install -d -m 700 -o {user} {folder}"
            )
    read = (config.data, config.patients, config.ca_file, config.key_file, config.centre_key_file)
    return Unit(
        name=f"asdnet-site-{config.site}",
        description=f"ASDNet: federated training, site {config.site}",
        command=(
            *program("asdnet-site", "client.cli"),
            *("run", "--site", config.site, "--configs", str(configs)),
        ),
        user=user,
        writable=writable,
        readable=[path for path in (configs, *read) if path is not None],
        restart_s=60,
        # The worker leaves the network in a namespace of its own (client/node/confinement).
        options=(
            "RestrictNamespaces=user net",
            *(("PrivateDevices=yes",) if config.device == "cpu" else ()),
        ),
        after=("nvidia-persistenced.service",) if config.device != "cpu" else (),
    )
