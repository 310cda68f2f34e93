"""`asdnet-sim tables --benchmark`: who is trained and tested on, where, with which labels."""

from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest
from rich.console import Console

from simulation.cohort import find_cohort
from simulation.commands.tables import TablesCommand, tables
from simulation.errors import SplitError
from simulation.experiment.benchmarks import BENCHMARKS
from simulation.folds import choose_fold, keep_labels
from simulation.layouts import StudyCase
from simulation.options import CommonOptions

NAMES = {
    "atrium": [
        f"atrium_{part}_{n:02d}" for part, k in (("train", 80), ("test", 20)) for n in range(k)
    ],
    "hippocampus": [f"hippocampus_{n:03d}" for n in range(70)],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Both data sets by their names alone; nothing is opened to split them."""
    for benchmark, names in NAMES.items():
        for place in ("imagesTr", "labelsTr"):
            (tmp_path / benchmark / place).mkdir(parents=True)
            for name in names:
                (tmp_path / benchmark / place / f"{name}.nii.gz").touch()
    return tmp_path


def cases_of(folder: Path, sites: int | None = None, labels: int | None = 4) -> list[StudyCase]:
    benchmark = BENCHMARKS[folder.name]
    options = CommonOptions(
        preset="quick",
        protocol=benchmark.protocol,
        fixed_grid=True,
        data=folder,
        labelled=None,
        unlabelled=None,
        sites=sites,
        sites_file=None,
        benchmark=benchmark,
        training_labels=labels,
        out=folder,
        device="cpu",
        workers=1,
        cache=folder,
    )
    cases, cohort = find_cohort(options, Console(quiet=True))
    assert cohort == {"kind": "folder", "benchmark": folder.name}
    return choose_fold(cases, 1, 1)


def names_of(cases: list[StudyCase], part: str) -> set[str]:
    return {case.name for case in cases if case.part == part}


def test_the_split_is_by_name_and_has_no_validation(data: Path) -> None:
    for benchmark, names in NAMES.items():
        cases = cases_of(data / benchmark)
        tested = names_of(cases, "test")
        assert len(tested) == 20 and tested == set(names[-20:])
        assert names_of(cases, "labelled") == set(names) - tested
        assert len(cases) == len(names)


@pytest.mark.parametrize(("sites", "training", "tested"), [(1, 80, 20), (4, 20, 5), (6, 14, 4)])
def test_both_parts_are_dealt_evenly(data: Path, sites: int, training: int, tested: int) -> None:
    counts = Counter((case.site, case.part) for case in cases_of(data / "atrium", sites))
    assert {site for site, _ in counts} == set("ABCDEF"[:sites])
    for part, most in (("labelled", training), ("test", tested)):
        of_part = {counts[site, part] for site in "ABCDEF"[:sites]}
        assert max(of_part) == most and min(of_part) >= most - 1


@pytest.mark.parametrize(("labels", "sites", "free"), [(4, 4, 0), (16, 4, 0), (8, 6, 2)])
def test_another_seed_labels_other_cases_of_the_same_sites(
    data: Path, labels: int, sites: int, free: int
) -> None:
    cases = cases_of(data / "atrium", sites)
    of_seed = {seed: keep_labels(cases, labels, 1, seed, free) for seed in (1, 2, 3)}
    chosen = {seed: frozenset(names_of(kept, "labelled")) for seed, kept in of_seed.items()}
    assert len(set(chosen.values())) == 3
    for kept in of_seed.values():
        assert [(c.name, c.site) for c in kept] == [(c.name, c.site) for c in cases]
        assert names_of(kept, "test") == names_of(cases, "test")
        assert len(names_of(kept, "unlabelled")) == 80 - labels
        by_site = Counter(case.site for case in kept if case.part == "labelled")
        assert by_site == dict.fromkeys("ABCDEF"[: sites - free], labels // (sites - free))


def test_a_data_set_with_a_case_less_is_another_one(data: Path) -> None:
    for place in ("imagesTr", "labelsTr"):
        (data / "atrium" / place / "atrium_train_07.nii.gz").unlink()
    with pytest.raises(SplitError, match=r"80 training and 20 test .* here are 79 and 20"):
        cases_of(data / "atrium")


def test_more_sites_than_test_cases_are_refused(data: Path) -> None:
    with pytest.raises(SplitError, match="20 test cases for 21 sites; lower --sites"):
        cases_of(data / "atrium", 21)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"benchmark": "lung"}, ["--benchmark: must be of atrium, hippocampus, not 'lung'"]),
        (
            {"cohort": "phantom", "preset": "quick", "organs": "a=1", "labelled": 3},
            ["--preset: has no", "--organs: has no", "--labelled: has no", "needs --cohort"],
        ),
        ({"folds": 2}, ["--folds 2: a benchmark has one fold; leave it out"]),
        ({"training_labels": 81}, ["has 80 labelled training cases, 81 are asked for"]),
    ],
)
def test_what_contradicts_a_benchmark_is_refused(
    data: Path, changes: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"benchmark": "atrium", "cohort": str(data / "atrium"), "out": data / "out"} | changes
    with pytest.raises(click.exceptions.Exit) as ended:
        tables(TablesCommand(plan=True, **given))
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.exit_code == 2
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True)), lines


def test_the_study_is_the_recipe_of_plans_on_a_small_network() -> None:
    study = BENCHMARKS["atrium"].protocol
    assert study.organs == {"left_atrium": 1}
    assert study.spacing_mm == (1.875, 1.875, 1.875) and study.patch_voxels == (48, 40, 24)
    training, network = study.training, study.network
    assert (network.architecture, network.width, network.kernel) == ("svnet", 8, 3)
    assert training.rounds * training.local_steps == 2000
    assert (training.views, training.lr_schedule) == ("strong", "polynomial")
    assert study.method.supervised == "dice+ce"
