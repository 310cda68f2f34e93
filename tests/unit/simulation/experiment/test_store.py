"""What stands on the disk of an experiment: its keys are older than the names in the code."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from simulation.experiment.store import (
    CaseRow,
    ExperimentInfo,
    RunInfo,
    RunKey,
    read_rows,
    write_rows,
)

DONE = {
    "key": {"row": "SVNet", "way": "local", "fold": 2, "seed": 1},
    "seconds": 1.5,
    "best_round": None,
    "finished": "2026-11-25T10:00:00+00:00",
}
STUDY = {
    "command": "asdnet-sim tables",
    "started": "2026-11-25T10:00:00+00:00",
    "cohort": {"kind": "phantom"},
    "organs": ["ball"],
    "rows": ["SVNet", "mine"],
    "ways": ["federated"],
    "folds": [1],
    "seeds": [1],
    "own_rows": {"mine": {"method": {"gamma": 0.2}}},
    "protocol": {},
    "versions": {},
    "notes": [],
}


def test_a_stored_experiment_is_read_and_written_by_the_same_keys() -> None:
    done = RunInfo.model_validate_json(json.dumps(DONE))
    assert done.key == RunKey(method="SVNet", setting="local", fold=2, seed=1)
    assert done.model_dump(mode="json") == DONE
    study = ExperimentInfo.model_validate_json(json.dumps(STUDY))
    assert (study.methods, study.settings) == (("SVNet", "mine"), ("federated",))
    assert study.own_methods == STUDY["own_rows"]
    assert study.model_dump(mode="json") == STUDY


def test_scores_of_before_the_surface_dice_are_read(tmp_path: Path) -> None:
    """Their failure is yes or no, and they have no column for what was not measured."""
    (tmp_path / "cases.csv").write_text(
        "site,case,part,organ,dsc,asd_mm,failure\nA,x,test,rod,0.5,1.5,False\n"
        "A,y,test,rod,0.0,,True\n"
    )
    found, missed = read_rows(tmp_path / "cases.csv", CaseRow)
    assert (found.failure, found.hd95_mm, found.nsd) == (None, None, None)
    assert (missed.failure, missed.asd_mm) == ("one_empty", None)
    new = found.model_copy(update={"failure": "far_off", "hd95_mm": 3.0, "nsd": 0.5})
    write_rows(tmp_path / "cases.csv", [found, missed, new], CaseRow)
    assert read_rows(tmp_path / "cases.csv", CaseRow) == [found, missed, new]


def test_an_unknown_setting_or_key_is_refused() -> None:
    for wrong in ({"way": "central"}, {"nonsense": 1}):
        with pytest.raises(ValidationError):
            RunKey.model_validate(DONE["key"] | wrong)  # type: ignore[operator]
