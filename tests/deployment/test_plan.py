"""`asdnet-centre plan` against a real SuperLink and hospitals that are asked, agree, or do not."""

import json
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import yaml

from protocol.config.study_file import read_study

ASKED = ("plan", "--organs", "ball=2,rod=5", "--minutes-a-round", "5", "--memory", "2GiB")


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Deployment]:
    with harness.federation(tmp_path_factory.mktemp("plan"), harness.tiny_study(), "AB") as made:
        made.start_superlink()
        made.start_sites()
        yield made


def _audited(hospitals: harness.Deployment, site: str) -> list[dict[str, object]]:
    lines = hospitals.site_config(site).audit_file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_a_study_is_planned_once_both_sites_have_approved(
    hospitals: harness.Deployment,
) -> None:
    out = hospitals.folder / "study.yaml"
    given = ("--sites", "A,B", "--out", out, "--centre", hospitals.centre)
    hospitals.start_at("centre", "plan", "server/cli.py", *ASKED, *given)
    hospitals.until(lambda: "asks A, B" in hospitals.log("plan"), 120, "a run that asks")
    (run,) = [path.name for path in (hospitals.centre / "runs").glob("plan-*")]
    hospitals.approve(run)
    assert hospitals.processes["plan"].wait(400) == 0, hospitals.log("plan")
    study = read_study(out)
    assert study.spacing_mm == (2.0, 2.0, 2.0)
    assert study.organs == {"ball": 2, "rod": 5}
    assert "site A: 2 labelled and 1 unlabelled scans" in out.read_text(encoding="utf-8")
    for site in "AB":
        sent = [e for e in _audited(hospitals, site) if e["what"] == "fingerprint reply"]
        assert len(sent) == 1


def test_nothing_is_written_where_a_site_refuses_or_is_not_there(
    hospitals: harness.Deployment,
) -> None:
    out = hospitals.folder / "none.yaml"
    given = ("--out", out, "--centre", hospitals.centre, "--wait-minutes", "0.2")
    said = hospitals.server(*ASKED, "--sites", "A,Z", *given, check=False)
    assert "Z: not admitted to this centre; admitted are A, B" in said
    said = hospitals.server(*ASKED, "--sites", "A,B", *given, check=False)
    assert "no fingerprint of A: StudyNotApproved; B: StudyNotApproved" in said
    assert not out.exists()


def test_a_sites_file_refuses(hospitals: harness.Deployment) -> None:
    path = hospitals.home("B") / "B.yaml"
    content = yaml.safe_load(path.read_text())
    content["limits"]["fingerprint"] = False
    hospitals.end("B")
    path.write_text(yaml.safe_dump(content))
    hospitals.start_site("B")
    out = hospitals.folder / "refused.yaml"
    given = ("--sites", "B", "--out", out, "--centre", hospitals.centre, "--wait-minutes", "1")
    said = hospitals.server(*ASKED, *given, check=False)
    assert "no fingerprint of B: BeyondLimits" in said
    assert not Path(out).exists()
