"""The folder of an experiment: its lock, and which of its runs are complete."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from protocol.files import LockedError, locked, remove_drafts, write_json
from simulation.errors import StudyFolderError
from simulation.experiment.plan import differences
from simulation.experiment.store import ExperimentInfo, RunKey


def refuse_foreign_folder(out: Path) -> None:
    """An experiment goes into a folder of its own.

    Raises:
        StudyFolderError: If there is anything else in it.
    """
    if out.exists() and any(out.iterdir()) and not (out / "study.json").exists():
        raise StudyFolderError(
            f"{out}: is not empty and holds no experiment; give --out a new folder or one of an "
            "experiment"
        )


@contextmanager
def locked_experiment(out: Path) -> Iterator[None]:
    """One command at a time works on an experiment; the lock ends with the process that has it.

    A new folder in which no run has begun is taken away again.

    Raises:
        StudyFolderError: If another command has it.
    """
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with locked(out / "lock", timeout_s=0):
            remove_drafts(out / "runs", older_than_s=0)
            yield
    except LockedError:
        raise StudyFolderError(
            f"{out}: another command is at work on this experiment; wait for it or stop it"
        ) from None
    finally:
        if new and not (out / "runs").exists():
            shutil.rmtree(out)


def open_or_resume(out: Path, info: ExperimentInfo, console: Console) -> None:
    """Write study.json, or check that the existing one is of the same experiment.

    An experiment may get more methods, settings, folds or seeds; it never loses any.

    Raises:
        StudyFolderError: Naming every setting that differs.
    """
    path = out / "study.json"
    before = begun_before(out, info)
    if before is None:
        write_json(path, info.model_dump(mode="json"))
        return
    if before.versions != info.versions:
        console.print(
            "note: the experiment was begun with other versions of its packages; see study.json",
            highlight=False,
        )
    kept = {"started": before.started, "versions": before.versions}
    write_json(path, info.model_copy(update=kept).model_dump(mode="json"))


def begun_before(out: Path, info: ExperimentInfo) -> ExperimentInfo | None:
    """What the folder says of the same experiment; None where it was not begun.

    Raises:
        StudyFolderError: Naming every setting that differs.
    """
    path = out / "study.json"
    if not path.exists():
        return None
    before = ExperimentInfo.model_validate_json(path.read_bytes())
    if changed := differences(before, info):
        raise StudyFolderError(
            f"{out}: holds an experiment with other options: {'; '.join(changed)}; give the same "
            "ones again, or --out a new folder"
        )
    return before


def complete(out: Path, runs: Sequence[RunKey]) -> list[RunKey]:
    """The runs that are there."""
    return [key for key in runs if (out / "runs" / key.folder / "done.json").exists()]
