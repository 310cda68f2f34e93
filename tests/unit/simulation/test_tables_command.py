"""`asdnet-sim tables --plan`: what a run would refuse is refused, what is left out is said."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest

import simulation.experiment.preparation
from simulation.commands.tables import TablesCommand, tables
from simulation.experiment.methods import METHODS
from tests.conftest import MakeSite

# As a plan writes it: a U-Net with strides of its own, whose last V-Net repeats.
STUDY = """
base: planned
spacing_mm: [2, 2, 2]
organs: {ball: 2, rod: 5}
network: {strides: [[2, 2, 2], [2, 2, 1]]}
patch_voxels: [20, 20, 18]
"""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(
        simulation.experiment.preparation, "spawned_pool", lambda _: ThreadPoolExecutor(1)
    )
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def given(make_site: MakeSite, tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "study.yaml").write_text(STUDY)
    return {
        "cohort": str(make_site(labelled=8).data),
        "organs": "ball=2,rod=5",
        "labelled": 8,
        "unlabelled": 0,
        "sites": 2,
        "workers": 1,
        "study": tmp_path / "study.yaml",
        "folds": 1,
        "seeds": 1,
        "out": tmp_path / "out",
        "cache": tmp_path / "cache",
        "plan": True,
    }


def refused(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(click.exceptions.Exit) as ended:
        tables(TablesCommand(**given))
    assert ended.value.exit_code == 2
    out, err = capsys.readouterr()
    assert "to do" not in out
    return err.splitlines()


def test_rows_of_the_tables_that_a_study_does_not_allow_are_left_out_and_said(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tables(TablesCommand(**given))
    first, *runs, last = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "rows left out on this study: VNet: patch_voxels: must be multiples of 8, 8, 2"
    )
    listed = {line.split()[2] for line in runs}
    assert listed == {name for name, row in METHODS.items() if row.tables} - {"VNet"}
    assert last.endswith("0 complete, nothing trained")
    assert not given["out"].exists()


def test_rows_that_were_named_are_refused_all_at_once(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(
        "deep: {network: {strides: [[2, 2, 2], [2, 2, 2], [2, 2, 2]]}}\nsame: {network: "
        "{architecture: svnet}, method: {sample_attention: 'off', lambda_adversarial: 0, "
        "lambda_region: 0}}\n"
    )
    named = given | {"rows": "VNet,SVNet", "own_rows": tmp_path / "own.yaml"}
    vnet, deep, same = refused(named, capsys)
    assert "method VNet: patch_voxels" in vnet and "would do" in vnet
    assert "method deep: patch_voxels" in deep
    assert "methods SVNet and same: are one and the same on this study" in same


def test_a_scan_that_a_run_would_refuse_is_refused_before_anything_is_listed(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = sorted(Path(given["cohort"]).glob("imagesTr/*"))[0]
    broken.write_bytes(broken.read_bytes()[:400])
    (line,) = refused(given, capsys)
    assert broken.name.split(".")[0] in line
    assert not given["out"].exists()


def test_every_mistake_of_the_options_is_told(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "rows": "XNet,SVNet,YNet",
        "settings": "central",
        "settings_rows": "ZNet",
        "folds": 9,
        "seeds": 0,
        "organs": "ball=two",
    }
    lines = refused(given | wrong, capsys)
    options = ["--organs", "--rows", "--settings", "--settings-rows", "--folds", "--seeds"]
    assert [line.split()[1].rstrip(":") for line in lines] == options
    assert lines[1].endswith("not 'XNet' and 'YNet'; did you mean VNet?")


def test_phantoms_need_not_be_made_to_list_their_runs(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    phantoms = {"cohort": "phantom", "plan": True, "folds": 1, "seeds": 1, "rows": "VNet,SVNet"}
    tables(TablesCommand(**phantoms, cache=given["cache"], out=given["out"]))
    assert "to do  VNet federated, fold 1, seed 1" in capsys.readouterr().out
    assert not given["cache"].exists()


def test_where_labels_are_withheld_the_plan_says_how_many_each_site_keeps(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tables(TablesCommand(**given | {"rows": "SVNet", "training_labels": 2, "label_free": 1}))
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("Cases by site (labelled + unlabelled + validation + test): A 2 + ")
    assert ", B 0 + " in first
