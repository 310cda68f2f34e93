"""What a person wants of a run: that it goes on, rests or has ended; in wanted.json of its folder.

The commands write it, `asdnet-centre serve` starts and ends ServerApps by it, and a ServerApp
looks at it between two rounds.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from asdnet_models.fields import Frozen
from protocol.config.explanation import explain
from protocol.files import locked, write_json
from server.monitoring.run_folder import RunError

# Why a run was ended that a command has ended.
BY_A_PERSON = "by a person"

Priority = Annotated[int, Field(ge=-100, le=100)]


class Wanted(Frozen):
    """One run's; a run without the file is started and ended by hand alone.

    Attributes:
        state: As a person has it.
        priority: Of several that are to go on, the highest works first.
        since: When the run was first wanted; among equals the earliest works first.
        said: When a person last said how it is wanted.
        turn: False: another has the turn, as the service has it.
    """

    state: Literal["running", "paused", "stopped"] = "running"
    priority: Priority = 0
    since: AwareDatetime
    said: AwareDatetime
    turn: bool = True

    @property
    def rests(self) -> str:
        """Why no round is to be begun; "": one is."""
        if self.state != "running":
            return f"{self.state} {BY_A_PERSON}"
        return "" if self.turn else "a study of higher priority has the turn"

    @property
    def order(self) -> tuple[int, datetime]:
        """The least comes first."""
        return (-self.priority, self.since)


def read_wanted(run: Path) -> Wanted | None:
    """Of the run in this folder; None: nothing was said.

    Raises:
        RunError: The file is damaged.
    """
    path = _file(run)
    try:
        return Wanted.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise RunError(
            f"{explain(error, str(path))}\ndelete it, and say anew what is wanted:"
            f" asdnet-centre resume {run.name}"
        ) from None


def change_wanted(run: Path, change: Callable[[Wanted], Wanted]) -> Wanted:
    """Change it under a lock, from what is there or from "running since now".

    Raises:
        RunError: The file is damaged.
    """
    with locked(run / "wanted.lock"):
        now = datetime.now(UTC)
        before = read_wanted(run) or Wanted(since=now, said=now)
        after = change(before)
        write_json(_file(run), after.model_dump(mode="json"))
    return after


def want(run: Path, state: Literal["running", "paused", "stopped"]) -> Wanted:
    """A person wants the run to be so; a run that goes on has the turn until the service says."""
    new = {"state": state, "turn": True, "said": datetime.now(UTC)}
    return change_wanted(run, lambda w: w.model_copy(update=new))


def _file(run: Path) -> Path:
    return run / "wanted.json"
