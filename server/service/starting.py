"""Starts and ends the ServerApp of a run on this centre's SuperLink."""

from pathlib import Path

from flower_compat import control as superlink
from flower_compat.bundle import build_bundle
from flower_compat.control import SuperLinkRefused, SuperLinkUnreachable
from server.admin.agreement import what_has_changed
from server.admin.centre import Centre
from server.admin.owner import read_owner_token
from server.monitoring.run_folder import RunError, RunFolder

APP = Path(__file__).resolve().parents[2]


class NeedsPersonError(RuntimeError):
    """A run that cannot go on by itself; the message says what a person has to do."""


def start_run(centre: Centre, folder: RunFolder, bundle: bytes) -> None:
    """Have the SuperLink start a ServerApp; what an earlier one left running is ended first.

    Raises:
        RunError: The SuperLink does not answer, or refuses.
    """
    facts, _ = folder.read()
    try:
        with superlink.connect(centre.port, centre.ca_file, read_owner_token(centre)) as control:
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


def start_again(centre: Centre, folder: RunFolder) -> None:
    """Start a run as it was signed, with no new signature.

    Raises:
        NeedsPersonError: Code, protocol or sites are no longer those that were signed.
        RunError: As `start_run`.
    """
    name = folder.path.name
    bundle = build_bundle(APP)
    if changes := what_has_changed(centre, folder, bundle):
        raise NeedsPersonError(
            f"{'; '.join(changes)}. Sign it anew: asdnet-centre run --prepare --resume {name},"
            f" have the sites approve it, then: asdnet-centre resume {name}"
        )
    start_run(centre, folder, bundle)


def end_run(centre: Centre, folder: RunFolder, kind: str, reason: str) -> bool:
    """End the ServerApp now; who follows it learns that this was on purpose, and why.

    The round at work is lost, complete ones are not.

    Returns:
        False: None was at work.

    Raises:
        SuperLinkUnreachable: It does not answer.
    """
    facts, _ = folder.read()
    with superlink.connect(centre.port, centre.ca_file, read_owner_token(centre)) as control:
        ended = facts.flower_run_id is not None and control.stop_run(facts.flower_run_id)
    if ended:
        folder.add_event(kind, reason=reason)
    return ended
