"""What a hospital reads before it approves: what its unlabelled scans are used for."""

from pathlib import Path
from typing import Any

import pytest
from signed_study import CODE, SignedStudy, tiny_protocol

from asdnet_models.catalogue import METHODS
from client.node.guard.guard import Guard
from client.node.guard.words import study_words

pytestmark = pytest.mark.usefixtures("flower_task")
STAYS = "is kept here and never sent"


def words_of(folder: Path, **method: Any) -> str:
    study = SignedStudy(tiny_protocol(method={"lambda_region": 0.5, **method}))
    config = study.config(folder / "A")
    shown = Guard(config).recognise(study.train(1, study.first))
    (line,) = [
        line.strip()
        for line in study_words(config, shown, CODE, None)
        if line.strip().startswith("unlabelled scans:")
    ]
    return line


@pytest.mark.parametrize("name", METHODS)
def test_only_eq_6_is_called_so_and_what_stays_is_said(name: str, tmp_path: Path) -> None:
    kind, line = METHODS[name], words_of(tmp_path, name=name)
    assert ("Eq. 6" in line) is (name == "asdnet")
    assert (STAYS in line) is (kind.teacher or kind.second_network)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "mean-teacher"}, "the labels are learnt everywhere"),
        ({"name": "ua-mt"}, "where it says the same under noise"),
        ({"name": "region-teacher", "gate": "none"}, "the labels are learnt everywhere"),
        ({"name": "region-teacher", "gate": "mask"}, "where the confidence network trusts them"),
        ({"name": "region-teacher", "gate": "weight"}, "as far as the confidence network trusts"),
        ({"name": "region-teacher", "gate": "softmax"}, "where it is sure of them itself"),
        ({"name": "copy-paste", "gate": "none"}, "pasted into labelled scans, and the reverse"),
        ({"name": "weak-to-strong", "gate": "none"}, "pasted into one another"),
        ({"name": "cross-pseudo"}, "a second network"),
    ],
)
def test_where_labels_are_learnt_and_what_is_mixed(
    method: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in words_of(tmp_path, **method)
