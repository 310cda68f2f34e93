"""`asdnet-site next-to-label`: the list, what is left out of it, and what is never printed."""

import csv
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from asdnet_models.networks import build_confidence, build_segmenter
from client.cli import app
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.model_io import save_model

MakeSite = Callable[..., SiteConfig]
MakeProtocol = Callable[..., StudyProtocol]


class Bench:
    """A site, a model, and the command."""

    def __init__(self, folder: Path, config: SiteConfig, protocol: StudyProtocol) -> None:
        self.folder, self.config = folder, config
        self.model, self.out = folder / "model", folder / "next.csv"
        self.save(protocol)
        self.facts()

    def save(self, protocol: StudyProtocol) -> None:
        grader = build_confidence(protocol).state_dict()
        grader = grader if protocol.method.trains_confidence else None
        save_model(self.model, protocol, build_segmenter(protocol).state_dict(), grader, {})

    def facts(self, **facts: Any) -> None:
        paths = {key: str(getattr(self.config, key)) for key in ("data", "cache", "state")}
        content = {"site": "A", "device": "cpu", "threads": 1, "min_cases_reported": 1}
        (self.folder / "A.yaml").write_text(yaml.safe_dump(content | paths | facts))

    def run(self, *options: str) -> Result:
        given = ["--site", "A", "--configs", str(self.folder), "--model", str(self.model)]
        return CliRunner().invoke(app, ["next-to-label", *given, "--out", str(self.out), *options])

    def rows(self) -> list[dict[str, str]]:
        with self.out.open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def bench(make_site: MakeSite, make_protocol: MakeProtocol, tmp_path: Path) -> Bench:
    return Bench(tmp_path, make_site(labelled=2, unlabelled=4), make_protocol())


def test_the_list(bench: Bench) -> None:
    ran = bench.run()
    assert ran.exit_code == 0, ran.output
    rows = bench.rows()
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["case"] for row in rows} == {f"patient-unlabelled-{n}" for n in range(4)}
    assert list(rows[0]) == ["rank", "case", "ball_expected_dsc", "rod_expected_dsc", "why"]
    assert all(0 <= float(row["rod_expected_dsc"]) <= 1 and row["why"] for row in rows)
    assert stat.S_IMODE(bench.out.stat().st_mode) == 0o600
    assert "4 scans" in ran.stderr and "confidence network" in ran.stderr
    assert "patient" not in ran.output  # no terminal
    before = bench.out.read_bytes()
    bench.run()
    assert bench.out.read_bytes() == before
    assert bench.run("--count", "2").exit_code == 0
    assert bench.rows() == rows[:2]


def test_without_a_confidence_network_the_softmax_is_used_and_said(
    bench: Bench, make_protocol: MakeProtocol
) -> None:
    bench.save(make_protocol(method={"lambda_adversarial": 0.0, "lambda_region": 0.0}))
    ran = bench.run()
    assert ran.exit_code == 0, ran.output
    assert "has no confidence network: its maximum softmax stands in for M" in ran.stderr
    assert any(row["why"].startswith("S doubts the") for row in bench.rows())


def test_only_organs_that_the_site_draws_are_doubted(bench: Bench) -> None:
    bench.facts(labels={"rod": [5]}, not_annotated=["ball"], ignored_labels=[2])
    assert bench.run().exit_code == 0
    assert list(bench.rows()[0]) == ["rank", "case", "rod_expected_dsc", "why"]


def test_unreadable_scans_are_left_out_and_told(bench: Bench) -> None:
    (bench.config.data / "imagesUn" / "patient-broken.nii.gz").write_bytes(b"no scan")
    ran = bench.run()
    assert ran.exit_code == 1
    assert len(bench.rows()) == 4
    assert ran.stderr.count("left out:") == 1
    assert "patient" not in ran.output


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"labels": {"liver": [1]}}, "labels: does not name ball"),
        ({"not_annotated": ["ball", "rod"]}, "names every organ of the model (ball, rod)"),
        ({"data": "nowhere"}, "does not exist; correct the site file"),
    ],
)
def test_what_cannot_begin(bench: Bench, facts: dict[str, Any], words: str) -> None:
    bench.facts(**facts)
    ran = bench.run()
    assert (ran.exit_code, bench.out.exists()) == (2, False)
    assert words in ran.stderr


def test_a_model_of_other_organs(bench: Bench, make_protocol: MakeProtocol) -> None:
    bench.save(make_protocol(organs={"liver": 1}))
    ran = bench.run()
    assert (ran.exit_code, bench.out.exists()) == (2, False)
    assert "none of the 2 labelled scans can be read with its organs (liver)" in ran.stderr


def test_nothing_unlabelled(bench: Bench) -> None:
    folder = bench.config.data / "imagesUn"
    for path in folder.iterdir():
        path.write_bytes(b"no scan")
    ran = bench.run()
    assert "no unlabelled scan that can be read (4 cannot" in ran.stderr
    for path in folder.iterdir():
        path.unlink()
    ran = bench.run()
    assert (ran.exit_code, bench.out.exists()) == (2, False)
    assert "has no unlabelled scan; put scans into imagesUn" in ran.stderr


def test_where_the_list_cannot_go(bench: Bench) -> None:
    bench.out.mkdir()
    assert "is a folder; give a file" in bench.run().stderr


def test_a_site_without_labels_has_a_list(bench: Bench) -> None:
    for name in ("imagesTr", "labelsTr"):
        for path in (bench.config.data / name).iterdir():
            path.unlink()
    assert bench.run().exit_code == 0
    assert len(bench.rows()) == 4
