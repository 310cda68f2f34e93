"""How a site's state folder is written: whole files, and only those of the last few runs."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# A site may serve a few studies in turn; what older ones left behind is of no more use.
_RUNS_KEPT = 4


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to: beside its place, on the disk, then in its place, or not at all."""
    draft = path.with_name(f"draft{path.suffix}")
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def forget_old_runs(folder: Path) -> None:
    """Clear away the folders of all runs but the last few."""
    runs = [run for run in folder.iterdir() if run.is_dir()]
    for run in sorted(runs, key=lambda run: run.stat().st_mtime)[:-_RUNS_KEPT]:
        shutil.rmtree(run)
