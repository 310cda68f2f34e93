"""The report of a made-up study: its numbers, its files, and what it says when pieces lack."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_study import make_study, write_info, write_run

from simulation.cli import app
from simulation.errors import ReportError
from simulation.experiment.report.confidence import confidence_lines
from simulation.experiment.report.key_findings import key_findings
from simulation.experiment.report.orderings import orderings
from simulation.experiment.report.overlays import overlays_section
from simulation.experiment.report.page import write_report
from simulation.experiment.report.published import table_methods
from simulation.experiment.report.results import Results
from simulation.experiment.report.unlabelled import gain_lines
from simulation.experiment.store import (
    CaseFiles,
    CaseRow,
    RunKey,
    read_cases,
    read_experiment,
    write_cases,
)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(page: str, table: str, row: str) -> list[str]:
    """The first line of a row in a table, by its caption."""
    body = page.split(f"<caption>{table}</caption>")[1].split("</table>")[0]
    line = body.split(f'<th scope="row">{row}</th>')[1].split("</tr>")[0]
    return re.findall(r"<td>(.*?)</td>", line)


@pytest.fixture(scope="module")
def page(study: Path) -> str:
    return write_report(study).read_text(encoding="utf-8")


def by_hand(folder: Path, *, gap: float = 0.01, kind: str = "phantom") -> Path:
    """Six cases, two seeds .02 apart, and AttSVNet+FCN worse by gap, 2 gap, ... 6 gap."""
    write_info(folder, rows=("ASDNet", "AttSVNet+FCN"), organs={"bladder": 1}, kind=kind)
    for row, step in (("ASDNet", 0.0), ("AttSVNet+FCN", gap)):
        for seed in (1, 2):
            lines = [
                CaseRow(
                    site="A",
                    case=f"c{n}",
                    part="test",
                    organ="bladder",
                    dsc=0.90 + 0.02 * (seed - 1) - 0.01 * n - step * (n + 1),
                    # The last case of ASDNet fails in seed 2.
                    asd_mm=None if (row, seed, n) == ("ASDNet", 2, 5) else 1.0 + n,
                    failure="missed" if (row, seed, n) == ("ASDNet", 2, 5) else None,
                )
                for n in range(6)
            ]
            write_run(folder, RunKey(method=row, way="federated", fold=0, seed=seed), lines)
    return folder


def test_numbers_worked_out_by_hand(tmp_path: Path) -> None:
    page = write_report(by_hand(tmp_path / "study")).read_text(encoding="utf-8")
    # ASDNet: .91, .90, ... .86: mean .885, SD .01 x sqrt(3.5). ASD 1 to 6 mm: the failed seed is
    # left out, its case is not.
    assert cells(page, "Table 1, federated", "ASDNet")[:2] == ["0.970", "0.885 (0.019)"]
    line = cells(page, "Table 2, federated", "ASDNet")
    assert (line[3], line[5], line[-1]) == ("-", "3.50 (1.87)", "1 missed of 12")
    other = cells(page, "Table 2, federated", "AttSVNet+FCN")
    # .885 less the mean of .01 to .06; all six are worse: p = 2 / 64, and one comparison alone.
    assert other[1].startswith("0.850 ")
    assert (other[0], other[3], other[-1]) == ("0.944", "0.031", "0 of 12")
    record = read_csv(tmp_path / "study/report/tables/table2_federated.csv")[-1]
    assert record["row"] == "ASDNet"
    assert float(record["dsc_mean"]) == pytest.approx(0.885)
    assert float(record["dsc_sd"]) == pytest.approx(0.01 * 3.5**0.5)
    assert (record["failures"], record["asd_undefined"], record["p_dsc"]) == ("1", "1", "")
    assert "mean DSC +0.035 (95% interval" in page
    assert "the paper has +0.026; its direction is reproduced" in page


def test_orderings_held_reversed_and_undecided(tmp_path: Path) -> None:
    for gap, outcome in ((0.01, "held"), (-0.01, "reversed"), (0.0, "undecided")):
        results = Results(*read_experiment(by_hand(tmp_path / outcome, gap=gap)))
        found = [o for o in orderings(results) if o.table == 2]
        assert [(o.better, o.worse, o.outcome) for o in found] == [
            ("ASDNet", "AttSVNet+FCN", outcome)
        ]
        assert found[0].paper == 0.026
        assert found[0].ours.mean == pytest.approx(3.5 * gap)


def test_an_asd_is_better_when_smaller(study: Path, tmp_path: Path) -> None:
    made = make_study(tmp_path / "study", rows={"VNet": 0.7, "ASDNet": 0.8}, images=False, rounds=1)
    found = {
        (o.score, o.organ): o for o in orderings(Results(*read_experiment(made))) if o.table == 1
    }
    asd = found["asd_mm", "bladder"]
    assert (asd.better, asd.worse, asd.paper, asd.outcome) == ("ASDNet", "VNet", -0.165, "held")
    assert asd.ours.mean == pytest.approx(-1.0, abs=0.1)


def test_the_made_study_key_findings(study: Path, page: str) -> None:
    sentences = key_findings(Results(*read_experiment(study)), "ASDNet")
    assert len(sentences) == 8
    assert sentences[0].startswith("Best of 4 federated rows: ASDNet, mean DSC over organs 0.8")
    assert "its direction is reproduced" in sentences[1]
    assert re.search(r"by site: higher at A \+0\.0[78]\d \(.*\), B \+0\.0[78]\d", sentences[3])
    # .84 of .87, and of .89.
    assert sentences[4].startswith("Federated ASDNet reaches 96.")
    assert "trained for as many steps as one site (pooled; 95% interval" in sentences[4]
    assert sentences[5].startswith("Federated ASDNet reaches 94.")
    assert "as many steps as all sites together (pooled-equal-steps; 95%" in sentences[5]
    assert "worse than the maximum softmax" in sentences[6]
    assert re.search(r"AUROC 0\.6[12]\d, difference -0\.18", sentences[6])
    assert sentences[7].startswith(
        "Best confidence map, AttSVNet+FCN: the confidence map separates"
    )
    assert all(f"<li>{sentence}</li>" in page for sentence in sentences)


def test_rows_of_no_table_stand_in_table_two(tmp_path: Path) -> None:
    rows = {"VNet": 0.7, "ASDNet": 0.8, "ASDNet-informed": 0.8, "mine": 0.8}
    results = Results(
        *read_experiment(make_study(tmp_path / "study", rows=rows, images=False, rounds=1))
    )
    assert table_methods(results, 2, "federated") == ("VNet", "ASDNet", "ASDNet-informed", "mine")
    assert table_methods(results, 1, "federated") == ("VNet", "ASDNet")


def test_what_unlabelled_scans_add(study: Path, page: str) -> None:
    lines = {(g.part, g.setting, g.method): g for g in gain_lines(Results(*read_experiment(study)))}
    # Only ASDNet was pooled and local, and nothing supervised beside it.
    assert {key[1] for key in lines} == {"federated"}
    gain = lines["test", "federated", "ASDNet"].gain
    assert gain.n == 16 and gain.mean == pytest.approx(0.06, abs=0.01)
    assert gain.verdict == "higher"
    assert lines["test", "federated", "AttSVNet+FCN"].gain.verdict == "lower"
    assert ("withheld", "federated", "ASDNet") in lines
    assert not {"SVNet", "AttSVNet"} & {key[2] for key in lines}
    assert "minus AttSVNet" in page


def test_a_study_without_a_federated_run_is_reported_by_the_setting_it_has(tmp_path: Path) -> None:
    made = make_study(tmp_path / "study", rows={"AttSVNet": 0.7, "ASDNet": 0.8}, images=False)
    for folder in (made / "runs").glob("*.federated.*"):
        shutil.rmtree(folder)
    results = Results(*read_experiment(made))
    assert results.setting == "pooled"
    assert key_findings(results, "ASDNet")[0].startswith("Best of 1 pooled rows: ASDNet")
    assert confidence_lines(results)


def test_reversed_and_undecided_are_reported(study: Path, page: str) -> None:
    tallies = {
        (o.better, o.worse, o.organ): o.outcome for o in orderings(Results(*read_experiment(study)))
    }
    assert tallies["ASDNet", "AttSVNet+FCN", "bladder"] == "held"
    assert tallies["AttSVNet+FCN", "AttSVNet", "bladder"] == "reversed"
    assert tallies["AttSVNet", "SVNet", "bladder"] == "undecided"
    assert "AttSVNet+FCN &gt; AttSVNet: bladder reversed, rectum reversed." in page


def test_failures_are_counted_and_in_no_mean(study: Path, page: str) -> None:
    records = read_csv(study / "report/tables/table2_federated.csv")
    line = next(r for r in records if (r["row"], r["organ"]) == ("SVNet", "rectum"))
    # Two seeds of one case; 2 folds x 2 sites x 4 cases are 16.
    assert (line["failures"], line["segmentations"]) == ("2", "32")
    assert (line["dsc_n"], line["asd_mm_n"]) == ("16", "15")


def test_failures_are_a_key_finding_of_the_row_that_has_them(study: Path) -> None:
    results = Results(*read_experiment(study))
    assert key_findings(results, "SVNet")[-1] == (
        "SVNet, federated, rectum: 2 missed, of 32 segmentations."
    )
    assert not any("missed" in sentence for sentence in key_findings(results, "ASDNet"))
    far = results.cases.asd_mm.where(results.cases.organ != "rectum", 34.0)
    results.cases = results.cases.assign(asd_mm=far)
    assert key_findings(results, "ASDNet")[-1] == (
        "ASDNet, federated, rectum: ASD 34.0 mm on average; evaluation.largest_component may help."
    )


def test_the_page_needs_nothing_else(page: str) -> None:
    assert "http://" not in page and "https://" not in page
    assert "<script" not in page and "<link" not in page and "url(" not in page
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) >= 8
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_no_path_and_no_name_of_a_case_is_in_it(study: Path, page: str) -> None:
    files = read_cases(study)
    assert len(files) == 16
    for content in (page, *(p.read_text() for p in (study / "report/tables").glob("*.csv"))):
        assert "private-data" not in content
        assert str(study) not in content
        assert "secret-" not in content


def test_what_is_synthetic_is_reported(page: str, tmp_path: Path) -> None:
    assert "SYNTHETIC phantoms; version 2; SHA-256 c0ffee" in page
    real = write_report(by_hand(tmp_path / "study", kind="folder")).read_text(encoding="utf-8")
    assert "SYNTHETIC" not in real


def test_the_files_beside_it(study: Path, page: str) -> None:
    tables = {path.stem for path in (study / "report/tables").glob("*.csv")}
    assert {
        "complete_runs",
        "confidence",
        "orderings_table2_dsc",
        "sites_ASDNet",
        "steps",
        "table1_federated",
        "table2_federated",
        "table2_local",
        "table2_pooled",
        "table2_pooled-equal-steps",
        "withheld",
    } <= tables
    figures = {path.stem for path in (study / "report/figures").glob("*.png")}
    assert {"boxes_dsc_rectum", "curves_losses", "curves_trusted", "contours_worst_1"} <= figures
    gains = read_csv(study / "report/tables/sites_ASDNet.csv")
    assert [r["site"] for r in gains if r["organ"] == "rectum"] == ["A", "B", "all"]
    assert float(gains[-1]["pooled_equal_steps_mean"]) > float(gains[-1]["pooled_mean"])
    # Six rounds at sites A, B and F; only federated runs of the made study have curves.
    steps = {r["way"]: r["steps"] for r in read_csv(study / "report/tables/steps.csv")}
    assert steps == {"federated": "180.0", "pooled": "", "pooled-equal-steps": "", "local": ""}
    trust = read_csv(study / "report/tables/confidence.csv")
    everywhere = next(r for r in trust if (r["region"], r["map"]) == ("all", "confidence"))
    # The AUROC of one of four scans is undefined, in both folds and seeds.
    assert (everywhere["auroc_n"], everywhere["auroc_undefined"]) == ("3", "4")
    assert everywhere["calibration_error_n"] == "4"


def only_study_file(study: Path) -> None:
    shutil.rmtree(study / "runs")


def without_predictions(study: Path) -> None:
    for folder in (study / "runs").glob("*/predictions"):
        shutil.rmtree(folder)


def without_curves(study: Path) -> None:
    for name in ("rounds.csv", "confidence.csv"):
        for path in (study / "runs").glob(f"*/{name}"):
            path.unlink()


def without_reference(study: Path) -> None:
    for folder in (study / "runs").glob("ASDNet.*"):
        shutil.rmtree(folder)


def without_cases_file(study: Path) -> None:
    (study / "cases.json").unlink()


def of_an_older_version(study: Path) -> None:
    """Pooled once, and without steps in rounds.csv."""
    for folder in (study / "runs").glob("*.pooled-equal-steps.*"):
        shutil.rmtree(folder)
    path = study / "study.json"
    info = json.loads(path.read_text())
    info["ways"].remove("pooled-equal-steps")
    path.write_text(json.dumps(info))
    for path in (study / "runs").glob("*/rounds.csv"):
        lines = path.read_text().splitlines()
        assert lines[0].split(",")[2] == "steps"
        cut = [",".join((*c[:2], *c[3:])) for c in (line.split(",") for line in lines)]
        path.write_text("\n".join(cut) + "\n")


def half_done(study: Path) -> None:
    for path in (study / "runs").glob("*seed2/done.json"):
        path.unlink()


@pytest.mark.parametrize(
    ("mishap", "sentence"),
    [
        (only_study_file, "No run is complete yet"),
        (without_predictions, "a prediction on this machine"),
        (without_curves, "No complete federated run has figures by round"),
        (without_curves, "No complete federated run has figures of a confidence map"),
        (without_reference, "ASDNet has no federated run, so there are no p."),
        (without_reference, "because ASDNet has no complete federated run"),
        (without_cases_file, "cases.json is not there"),
        (of_an_older_version, "Federated as a share of pooled-equal-steps: not known, for ASDNet"),
        (of_an_older_version, "trained for as many steps as one site (pooled; 95% interval"),
        (half_done, "Not complete: SVNet federated 2 of 4"),
    ],
)
def test_what_is_missing_is_reported(
    mishap: Callable[[Path], None], sentence: str, study: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "study"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report"))
    mishap(copy)
    assert sentence in write_report(copy).read_text(encoding="utf-8")


def test_a_scan_that_cannot_be_read_is_reported(study: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no scan")
    copy = tmp_path / "study"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report"))
    files = read_cases(study)
    write_cases(copy, {n: CaseFiles(image=bad, reference=f.reference) for n, f in files.items()})
    section = overlays_section(Results(*read_experiment(copy)), copy, "ASDNet")
    assert "3 of 3 cases could not be read" in str(section.blocks[1])


def test_cases_json_there_and_back(tmp_path: Path) -> None:
    assert read_cases(tmp_path) == {}
    here = CaseFiles(image=Path("scans/1.nii.gz"), reference=tmp_path / "l.nii.gz")
    write_cases(tmp_path, {"1": here})
    assert read_cases(tmp_path)["1"] == CaseFiles(
        image=tmp_path / "scans/1.nii.gz", reference=tmp_path / "l.nii.gz"
    )


def test_organs_that_the_paper_has_not(tmp_path: Path) -> None:
    made = make_study(tmp_path / "s", organs={"head": 1, "tail": 2}, images=False, rounds=1)
    page = write_report(made).read_text(encoding="utf-8")
    assert "the cohort&#39;s organs are not the paper&#39;s" in page
    assert "; a gain." in page


def test_the_command(study: Path, tmp_path: Path) -> None:
    good = CliRunner().invoke(app, ["report", str(by_hand(tmp_path / "study"))])
    assert good.exit_code == 0
    assert "report.html" in good.output
    bad = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert bad.exit_code == 2
    assert "has no study.json, so is no experiment" in " ".join(bad.output.split())


def test_a_damaged_file_is_an_error_with_its_place(tmp_path: Path) -> None:
    made = by_hand(tmp_path / "study")
    (made / "study.json").write_text("{}")
    with pytest.raises(ReportError, match=r"study: command: is missing"):
        write_report(made)
