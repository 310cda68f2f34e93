"""The made-up study, for every test of this folder."""

from pathlib import Path

import pytest
from made_study import make_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows, two folds, two seeds, three sites, two organs; read it, don't write to it."""
    return make_study(tmp_path_factory.mktemp("made") / "study")
