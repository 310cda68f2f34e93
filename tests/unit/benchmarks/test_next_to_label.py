"""The comparison of `next_to_label`: rules, random draws and the paired table, without training."""

from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import next_to_label as bench
from client.segmenting.next_to_label import SegmentedScan
from protocol.config.study_file import read_study
from protocol.files import write_json


def scan(name: str, error: float, place: float) -> SegmentedScan:
    return SegmentedScan(
        name=name, expected_dsc={"ball": 1 - error}, features={("large ball", "small ball"): place}
    )


def test_every_rule_lists_every_scan() -> None:
    rng = np.random.default_rng(1)
    new = [scan(f"u{n}", rng.uniform(), rng.normal()) for n in range(6)]
    old = [scan("l", 0.0, 0.0)]
    for rule in bench.RULES.values():
        assert sorted(rule(new, old)) == [one.name for one in new]


def test_the_rules_by_hand() -> None:
    """One odd scan at -3 with an error of .6, three alike about 2.1 with .4, labelled: 0."""
    old = [scan("zero", 0.0, 0.0)]
    alike = [scan(f"alike {n}", 0.4, place) for n, place in enumerate((2.0, 2.1, 2.2))]
    new = [scan("odd", 0.6, -3.0), *alike]
    assert bench.by_error(new, old)[0] == "odd"
    # .6 x 3 against .4 x 2.2; then the farthest of those that are alike.
    assert bench.by_list(new, old)[:2] == ["odd", "alike 2"]
    # .6 x 3 against .4 x (1.9 + 2.1 + 2.1).
    assert bench.by_coverage(new, old)[:2] == ["alike 1", "odd"]


def test_random_draws_differ_by_number_and_leave_out_what_is_labelled() -> None:
    trial = bench.Trial(
        seed=3,
        study=read_study(bench.STUDY),
        pool=cast(Any, dict.fromkeys(map(str, range(20)))),
        tested=(),
        labelled=("0", "1"),
        cache=Path(),
    )
    first, second = trial.drawn(1, 4), trial.drawn(2, 4)
    assert first == trial.drawn(1, 4) != second
    assert not {"0", "1"} & {*first, *second} and len(set(first)) == 4


def test_the_table_pairs_by_seed(tmp_path: Path) -> None:
    for seed, start, listed, drawn in ((1, 0.7, 0.80, (0.76, 0.78)), (2, 0.6, 0.70, (0.70, 0.66))):
        scans = {"expected": {"a": 0.9, "b": 0.8}, "true": {"a": 0.8, "b": 0.6}}
        write_json(tmp_path / f"{seed}-start.json", {"dsc": {"t": start}} | scans)
        write_json(tmp_path / f"{seed}-list.json", {"dsc": {"t": listed, "s": listed}})
        for number, value in enumerate(drawn, 1):
            write_json(tmp_path / f"{seed}-random{number}.json", {"dsc": {"t": value}})
    lines = bench.table(tmp_path)
    assert "| start | 2 | 0.6500 |  |" in lines
    assert "| random | 2 | 0.7250 |  |" in lines
    (listed_row,) = [line for line in lines if line.startswith("| list |")]
    assert listed_row.startswith("| list | 2 | 0.7500 | +0.0250 [")  # .03 and .02
    assert "SD of random draws within a seed: 0.0224" in lines
    assert "seed 1: expected DSC and true: rank correlation 1.00, mean off +0.150" in lines


def test_one_seed_has_no_interval() -> None:
    assert bench._difference({"1": 0.5}, {"1": 0.4}) == "one seed"
    assert bench._difference({"1": 0.5}, {"2": 0.4}) == "none"
    both = bench._difference({"1": 0.5, "2": 0.7}, {"1": 0.4, "2": 0.5})
    assert both == "+0.1500 [-0.4853, +0.7853]"
