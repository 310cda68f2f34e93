"""`asdnet-sim plan` on made scans, on a machine of known speed."""

from pathlib import Path
from typing import Any

import click
import pytest

import simulation.planning
from protocol.config.site import SiteConfig
from protocol.config.study_file import read_study
from protocol.planning.budget import Budget
from protocol.planning.fingerprint import Fingerprint
from simulation.commands.plan import PlanCommand, plan
from simulation.commands.run import RunCommand, run
from tests.conftest import MakeSite


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(found: Fingerprint, config: SiteConfig) -> Fingerprint:
        machine = {"step_seconds": 1.0, "step_gigamacs": 40.0, "memory_gib": 8.0}
        return found.model_copy(update=machine)

    monkeypatch.setattr(simulation.planning, "with_machine", tried)


@pytest.mark.usefixtures("known_machine")
def test_a_folder_is_planned(
    make_site: MakeSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study.yaml"
    given = PlanCommand(
        data=make_site(labelled=8).data,
        organs="ball=2,rod=5",
        labelled=8,
        unlabelled=0,
        sites=2,
        workers=1,
        memory="2GiB",
        minutes_a_round=0.5,
        rounds=30,
        out=out,
    )
    plan(given)
    study = read_study(out)
    assert study.spacing_mm == (2.0, 2.0, 2.0)
    assert all(8 <= edge <= 24 for edge in study.patch_voxels)
    assert study.organs == {"ball": 2, "rod": 5}
    assert study.training.rounds == 30
    text = out.read_text()
    assert text.count("site A:") == text.count("site B:") == 1
    # Sites take turns: each is half as fast as the machine.
    assert "20 GMAC/s" in text
    capsys.readouterr()
    with pytest.raises(click.exceptions.Exit) as ended:
        plan(given)
    assert ended.value.exit_code == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == text


def test_where_nothing_can_be_written_nothing_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "deep" / "study.yaml"
    for command in (
        lambda: plan(PlanCommand(data=tmp_path / "nowhere", organs="ball=2", out=out)),
        lambda: run(RunCommand(data=tmp_path / "nowhere", organs="ball=2", out=out)),
    ):
        with pytest.raises(click.exceptions.Exit):
            command()
        error = capsys.readouterr().err
        assert error.startswith(f"error: --out: {out} cannot be ")
        assert f"({tmp_path / 'file'}: not a directory)" in error
        assert "that you may write to" in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("known_machine")
def test_nothing_is_written_where_nothing_fits(
    make_site: MakeSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study.yaml"
    with pytest.raises(click.exceptions.Exit):
        plan(
            PlanCommand(
                data=make_site(labelled=8).data,
                organs="ball=2,rod=5",
                labelled=8,
                unlabelled=0,
                sites=1,
                workers=1,
                minutes_a_round=0.0001,
                out=out,
            )
        )
    assert "more --minutes-a-round" in capsys.readouterr().err
    assert not out.exists()


def test_data_alone_is_planned_and_a_preset_is_not() -> None:
    assert RunCommand().budget().memory_gib == 4.0
    assert RunCommand().budget().minutes_a_round == 1.0
    assert RunCommand(rounds=7).budget().rounds == 7
    assert RunCommand(memory="800MiB", minutes_a_round=3).budget() == Budget.given(
        "800MiB", 3, None
    )


def test_a_preset_beside_a_study_is_refused_where_it_has_no_effect(
    make_site: MakeSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("base: smoke\norgans: {ball: 2, rod: 5}\n")
    both = {"study": study, "preset": "smoke"}
    data = make_site(labelled=8).data
    for command in (
        lambda: run(RunCommand(data=data, out=tmp_path / "out", **both)),
        lambda: plan(PlanCommand(data=data, out=tmp_path / "new.yaml", **both)),
    ):
        with pytest.raises(click.exceptions.Exit) as ended:
            command()
        assert ended.value.exit_code == 2
        assert capsys.readouterr().err == (
            "error: --preset: has no effect beside --study; give one of the two\n"
        )
    assert not (tmp_path / "out").exists()
    # The preset says which phantoms are made; a study without one may be planned on.
    assert RunCommand(**both).decided(None, "--data")["preset"] == "smoke"
    of_study = PlanCommand(study=study).planned_on(data, seed=1, name="new")
    assert of_study["protocol"] == read_study(study)


@pytest.mark.parametrize("beside", [{"study": Path("x.yaml")}, {"preset": "quick"}, {"data": None}])
def test_a_budget_without_a_plan_is_refused(
    tmp_path: Path, beside: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"data": tmp_path, "organs": "ball=2", **beside}
    with pytest.raises(click.exceptions.Exit):
        run(RunCommand(memory="2GiB", minutes_a_round=3, **given))
    memory, minutes = capsys.readouterr().err.splitlines()
    assert memory.startswith("error: --memory: is of the plan that --data makes without")
    assert minutes.startswith("error: --minutes-a-round: is of the plan")
