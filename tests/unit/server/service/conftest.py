"""A centre, and a run of it that has ended."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from protocol.config.study import StudyProtocol
from server.admin.centre import Centre, create_centre
from server.monitoring.run_folder import RunFacts, RunFolder


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


@pytest.fixture
def ended_run(centre: Centre) -> RunFolder:
    folder = RunFolder(centre.runs / "pelvis")
    folder.create(RunFacts(name="pelvis", mlflow_uri=""), StudyProtocol())
    folder.add_event("finished", unsent=0, reason="")
    return folder
