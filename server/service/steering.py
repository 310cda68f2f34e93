"""What a person does to a run: let it go on, rest, end, or come before others."""

from pathlib import Path

from protocol.files import is_locked
from server.admin.centre import Centre
from server.monitoring.follow import read_events
from server.monitoring.run_folder import RunFolder
from server.monitoring.wanted import BY_A_PERSON, change_wanted, want
from server.service.standing import in_round
from server.service.starting import end_run


def stop(centre: Centre, folder: RunFolder) -> str:
    """End it now and for good, until somebody resumes it; what was done, in words.

    Raises:
        RunError: There is no such run.
        SuperLinkUnreachable: It cannot be ended now; it is ended as soon as the SuperLink is back.
    """
    from server.monitoring.killed import close_as_killed

    facts, _ = folder.read()
    want(folder.path, "stopped")
    ended = end_run(centre, folder, "stopped", BY_A_PERSON)
    told = not facts.mlflow_uri or close_as_killed(facts.mlflow_uri, facts.name)
    words = "stopped" if ended else "was not running"
    tail = "" if told else "\nMLflow could not be reached: the run is not shown there as killed"
    return f"run {facts.name}: {words}; {_again(centre, folder)}{tail}"


def pause(centre: Centre, folder: RunFolder, *, now: bool) -> str:
    """Let it rest once its round is complete, or now; what was done, in words.

    Raises:
        RunError: There is no such run.
        SuperLinkUnreachable: It cannot be ended now; it rests after its round.
    """
    facts, _ = folder.read()
    want(folder.path, "paused")
    again = _again(centre, folder)
    if not folder.at_work():
        return f"run {facts.name}: paused; {again}"
    if now or not in_round(read_events(folder.events)):
        end_run(centre, folder, "paused", BY_A_PERSON)
        return f"run {facts.name}: paused; {again}"
    return f"run {facts.name}: will pause when its round is complete (--now: at once); {again}"


def resume(centre: Centre, folder: RunFolder) -> str:
    """Let the service go on with it; what was done, in words."""
    facts, _ = folder.read()
    want(folder.path, "running")
    if is_kept(centre):
        return f"run {facts.name}: goes on when it has its turn"
    return (
        f"run {facts.name}: goes on as soon as the service does: asdnet-centre serve;"
        f" or now, without it: asdnet-centre run --resume {facts.name}"
    )


def prioritise(folder: RunFolder, priority: int) -> str:
    """Of several studies, the highest priority works first; what was done, in words."""
    facts, _ = folder.read()
    change_wanted(folder.path, lambda w: w.model_copy(update={"priority": priority}))
    return f"run {facts.name}: priority {priority}"


def service_lock(centre: Centre) -> Path:
    """Held by `asdnet-centre serve` while it is at work."""
    return centre.folder / "serve.lock"


def is_kept(centre: Centre) -> bool:
    """Whether the service is at work."""
    return is_locked(service_lock(centre))


def _again(centre: Centre, folder: RunFolder) -> str:
    command = "resume" if is_kept(centre) else "run --resume"
    return f"go on with: asdnet-centre {command} {folder.path.name}"
