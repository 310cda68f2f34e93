"""Whatever a file of sites or a dataset.json holds, it is read or refused in one clear way."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from client.data.errors import ScanError
from client.data.folder.dataset_files import dataset_problems
from client.data.folder.dataset_json import read_dataset_json
from simulation.errors import SplitError
from simulation.layouts import CohortFiles
from simulation.sites_file import assigned_cases

HERE = Path("x.nii.gz")
FILES = CohortFiles(
    images=dict.fromkeys("abcd", HERE), labels=dict.fromkeys("abcd", HERE), pool={"u": HERE}
)
CELL = st.sampled_from(
    ["a", "b", "c", "d", "u", "A", "B", "test", "train", "", "p", '"', "a b", "é"]
)
SCALAR = st.none() | st.booleans() | st.integers(-3, 400) | st.floats() | st.text(max_size=8)
KEY = st.sampled_from(
    ["labels", "channel_names", "modality", "file_ending", "training", "numTraining", "0", "1",
     "background", "prostate", "ignore", "image", "label", "./imagesTr/a.nii.gz", ".nii.gz"]
)  # fmt: skip
CONTENT = st.recursive(
    SCALAR | KEY,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=5),
    max_leaves=12,
)


@given(st.binary(max_size=80) | st.lists(st.lists(CELL, min_size=2, max_size=4), max_size=7))
@example([["case", "site"], ["a", "A"], ["b", "A"], ["c", "B"], ["d", "B"], ["u", "B"]])
def test_a_file_of_sites_is_read_or_every_line_of_its_error_names_it(content: Any) -> None:
    if isinstance(content, list):
        rows = [["case", "site", "split", "group"][: max(map(len, content), default=2)], *content]
        content = "\n".join(",".join(row) for row in rows).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.csv"
        path.write_bytes(content)
        try:
            cases = assigned_cases(path, FILES)
        except SplitError as error:
            assert all(line.startswith(f"{path}: ") for line in str(error).split("\n"))
            return
    assert sorted(case.name for case in cases) == sorted([*FILES.images, *FILES.pool])
    of_group: dict[str, set[tuple[str, bool]]] = {}
    for case in cases:
        side = case.part in ("labelled", "unlabelled") and (case.fixed or case.part == "unlabelled")
        if case.group:
            of_group.setdefault(case.group, set()).add((case.site, side))
    assert all(len(sides) == 1 for sides in of_group.values())


@given(st.dictionaries(KEY, CONTENT, max_size=6))
@example(
    {"labels": {"background": 0, "prostate": [1, 2]}, "training": [{"image": "", "label": ""}]}
)
def test_a_dataset_json_is_read_or_refused(content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        try:
            described = read_dataset_json(Path(folder))
            assert described is not None
            problems = dataset_problems(described, FILES.images, FILES.labels)
            assert all(str(problem).startswith("dataset.json: ") for problem in problems)
            organs = described.organs()
        except ScanError as error:
            assert str(error).startswith("dataset.json: ")
            return
    assert organs
    assert described.contradiction(organs) is None
