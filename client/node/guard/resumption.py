"""A person's decision to go on with a run that this site had stopped answering."""

from client.node.decisions import person
from client.node.guard.history import History, HistoryError, forget_last_signed, last_signed
from protocol.audit.log import AuditLog
from protocol.config.site import SiteConfig
from protocol.config.study import RUN_NAME

_WHAT = "run answered again"


class ResumptionError(ValueError):
    """A run that cannot be gone on with, and why."""


def resume_run(config: SiteConfig, run: str) -> str:
    """Answer the run again; what was decided is in the audit log, a sentence comes back.

    Where this site's own log had lost its end, or nobody can tell, it counts from here on as it is
    now.

    Raises:
        ResumptionError: If nothing was stopped.
        HistoryError: If the record of the run is damaged.
    """
    if not RUN_NAME.fullmatch(run):
        raise ResumptionError(f"--resume: {run[:80]!r} is no name of a run")
    history = History(config.state, run)
    past = history.load()
    log = config.audit_file.read_bytes() if config.audit_file.exists() else b""
    try:
        mark = last_signed(config.state)
        cut = mark is not None and not mark.stands_in(log)
    except HistoryError:
        cut = True
    if not past.stopped and not cut:
        raise ResumptionError(
            f"run {run}: was not stopped at this site; asdnet-site run answers it"
        )
    why = past.why or "this site's own audit log had lost its end"
    # In the log first: nothing goes on without a line that has the person.
    AuditLog(config.audit_file).append(
        "note", _WHAT, peer=str(config.centre), run=run, reason=f"decided by {person()}: {why}"
    )
    if cut:
        forget_last_signed(config.state)
    history.save(past.model_copy(update={"stopped": "", "why": ""}))
    return f"run {run}: is answered again from now on; stopped it was because: {why}"
