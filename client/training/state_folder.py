"""The site's state folder: files of the last rounds, of the last few runs."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from protocol.files import atomic_file, remove_drafts

# A site may serve a few studies in turn; what older ones left behind is of no more use.
_RUNS_KEPT = 4
# The last round's, and the one before it for a round that is trained again.
_ROUNDS_KEPT = 2


def remove_old_runs(folder: Path) -> None:
    """Clear away the folders of all runs but the last few."""
    runs = [run for run in folder.iterdir() if run.is_dir()]
    for run in sorted(runs, key=lambda run: run.stat().st_mtime)[:-_RUNS_KEPT]:
        shutil.rmtree(run)


class RoundFiles:
    """One file a round of one run, of which the last two rounds' are kept.

    A round that has to be trained again, because the centre died in it, begins from the file of the
    round before, and so gives the same bits.

    Args:
        everything: Folder of all runs' files of this kind.
        run: The run's name.
        suffix: The files' ending.
    """

    def __init__(self, everything: Path, run: str, suffix: str) -> None:
        self._all = everything
        self._folder = everything / run
        self._name = re.compile(rf"round-[0-9]+{re.escape(suffix)}")
        self._suffix = suffix

    def before(self, number: int) -> Path | None:
        """The newest file of a round before this one."""
        return max((p for p in self.kept() if _round_of(p) < number), key=_round_of, default=None)

    def kept(self) -> list[Path]:
        """All that are there, by round."""
        paths = [path for path in self._folder.glob("*") if self._name.fullmatch(path.name)]
        return sorted(paths, key=_round_of)

    @contextmanager
    def written(self, number: int) -> Iterator[BinaryIO]:
        """This round's file, to write to; older rounds and runs are cleared away after it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(self._folder)
        path = self._folder / f"round-{number:05d}{self._suffix}"
        with atomic_file(path) as draft, draft.open("wb") as file:
            yield file
        for old in [path for path in self.kept() if _round_of(path) <= number][:-_ROUNDS_KEPT]:
            old.unlink()
        remove_old_runs(self._all)


def _round_of(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))
