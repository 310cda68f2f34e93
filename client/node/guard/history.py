"""What a site remembers of a run: rounds, weights that it received, logs of the others.

Below `guard` in the site's state, a folder a run.  The record is one small file, replaced
atomically; weights are files of their own, named by their digest, which are there before the record
speaks of them.  A process that is killed between any two steps leaves one state or the other.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from asdnet_models.fields import Frozen
from asdnet_models.model_files import ModelFileError, load_tensors, part, prefixed
from protocol.agreement.digests import digests_of
from protocol.files import remove_drafts, write_text
from protocol.model_io import save_tensors
from protocol.wire.weights import Weights

log = logging.getLogger(__name__)

_RECORD, _MARK = "record.json", "last-signed.json"
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
# Weights of so many runs are kept; a run that has lost its own asks for those of other sites.
_RUNS_WITH_WEIGHTS = 4

Digests = dict[str, str]


class HistoryError(RuntimeError):
    """A record that cannot be read: without it nothing may be answered."""


class Mark(Frozen):
    """An entry of an audit log: its number and its hash."""

    seq: PositiveInt
    head: str

    def stands_in(self, log: bytes) -> bool:
        """Whether a log has the entry; the one after it names it too, which is not enough."""
        return f'"hash":"{self.head}"'.encode() in log


class LogEnd(Mark):
    """Where another site's log ended, by its statement of a round."""

    round: PositiveInt


class Record(Frozen):
    """One run, as far as this site has followed it.

    Attributes:
        round: The last one that this site was told to train in; 0: none.
        plan: Its plan, JSON, without the organ box.
        digests: Of the global weights of a round, by round and network: those that training of
            `round` began with, and those that were scored after it, which the next begins with.
        trainings: Answers to training of `round` that have left.
        evaluation_round: After which this site scored last; 0: never.
        evaluations: Answers to it that have left.
        queries: Declarations that have left.
        logs: Where the other sites' logs ended, by site.
        statements: Digest of the statements that were stored last.
        stopped: The word with which everything of this run is refused until a person decides.
        why: The sentence to it.
    """

    round: NonNegativeInt = 0
    plan: str = ""
    digests: dict[int, Digests] = Field(default_factory=dict)
    trainings: NonNegativeInt = 0
    evaluation_round: NonNegativeInt = 0
    evaluations: NonNegativeInt = 0
    queries: NonNegativeInt = 0
    logs: dict[str, LogEnd] = Field(default_factory=dict)
    statements: str = ""
    stopped: str = ""
    why: str = ""


class History:
    """The memory of one run."""

    def __init__(self, state: Path, run: str) -> None:
        self._all = state / "guard"
        self._folder = self._all / run

    def load(self) -> Record:
        """What is remembered; an empty record of a run that is new here.

        Raises:
            HistoryError: If the file is damaged.
        """
        path = self._folder / _RECORD
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Record()
        except (OSError, ValidationError) as error:
            raise HistoryError(
                f"{path}: cannot be read ({type(error).__name__}): this site does not know any more"
                " what it has answered, and answers nothing of this run; restore the file from a"
                " backup, or have the centre begin a new run"
            ) from None

    def save(self, record: Record) -> None:
        """Remember this, and let go of weights that it does not speak of."""
        self._make_folder()
        write_text(self._folder / _RECORD, record.model_dump_json(), _PRIVATE_FILE)
        kept = {_file_name(number, digests) for number, digests in record.digests.items()}
        for path in self._folder.glob("weights-*.safetensors"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def keep_weights(self, number: int, networks: Mapping[str, Weights], digests: Digests) -> None:
        """Keep what a round begins with, under its digests; the record has to name them next."""
        self._make_folder()
        remove_drafts(self._folder)
        path = self._folder / _file_name(number, digests)
        if not path.exists():
            save_tensors(path, prefixed(**networks), {})
        _remove_weights_of_old_runs(self._all)

    def weights(self, number: int, digests: Digests) -> dict[str, Weights] | None:
        """The weights of these digests; None where they are not here any more."""
        try:
            tensors, _ = load_tensors(self._folder / _file_name(number, digests))
        except (ModelFileError, OSError):
            return None
        networks = {name: part(tensors, name) or {} for name in digests}
        if digests_of(networks) != digests:
            log.warning("weights of round %d are damaged on this site's disk", number)
            return None
        return networks

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)


def last_signed(state: Path) -> Mark | None:
    """The entry of this site's own log that its last statement names; None: it has signed none.

    Raises:
        HistoryError: If the file is damaged.
    """
    path = state / "guard" / _MARK
    try:
        return Mark.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise HistoryError(
            f"{path}: cannot be read: whether this site's own audit log is whole is not known; once"
            " you know why, go on with asdnet-site audit --resume RUN"
        ) from None


def keep_last_signed(state: Path, mark: Mark) -> None:
    """Before the statement leaves."""
    (state / "guard").mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    write_text(state / "guard" / _MARK, mark.model_dump_json(), _PRIVATE_FILE)


def forget_last_signed(state: Path) -> None:
    """By a person's decision."""
    (state / "guard" / _MARK).unlink(missing_ok=True)


def _file_name(number: int, digests: Mapping[str, str]) -> str:
    both = hashlib.sha256("".join(digests[name] for name in sorted(digests)).encode()).hexdigest()
    return f"weights-{number:05d}-{both[:16]}.safetensors"


def _remove_weights_of_old_runs(folder: Path) -> None:
    runs = sorted((run for run in folder.iterdir() if run.is_dir()), key=_last_used)
    old: Iterable[Path] = runs[:-_RUNS_WITH_WEIGHTS]
    for path in (path for run in old for path in run.glob("weights-*.safetensors")):
        path.unlink(missing_ok=True)


def _last_used(run: Path) -> float:
    return run.stat().st_mtime
