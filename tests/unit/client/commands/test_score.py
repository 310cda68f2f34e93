"""The command that scores two label maps, and how its organs are written."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner

from asdnet_models.organs import check_organs, parse_organs
from client.cli import app

ORGANS = "bladder=1,prostate=2,rectum=3"


def save(path: Path, voxels_zyx: dict[tuple[int, int, int], int], spacing_z: float = 3.0) -> Path:
    array = np.zeros((6, 7, 8), np.uint8)
    for place, value in voxels_zyx.items():
        array[place] = value
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.8, spacing_z))
    sitk.WriteImage(image, str(path))
    return path


def test_json_holds_scores_in_mm_of_the_right_axes(tmp_path: Path) -> None:
    prediction = save(tmp_path / "p.nii.gz", {(1, 1, 1): 1, (3, 3, 3): 2, (5, 5, 5): 3})
    reference = save(tmp_path / "r.mha", {(2, 1, 1): 1, (3, 3, 4): 2})
    result = CliRunner().invoke(
        app, ["score", str(prediction), str(reference), "--organs", ORGANS, "--json"]
    )
    assert result.exit_code == 0
    scores = json.loads(result.stdout)
    # Of neighbours half of the corners are shared, the others lie an edge away.
    for organ, edge, nsd in (("bladder", 3.0, 0.5), ("prostate", 0.5, 1.0)):
        distances = {"asd_mm": pytest.approx(edge / 2), "hd95_mm": pytest.approx(edge)}
        assert scores[organ] == {"dsc": 0, **distances, "nsd": nsd, "failure": "far_off"}
    none = {"asd_mm": None, "hd95_mm": None}
    assert scores["rectum"] == {"dsc": 0, **none, "nsd": 0, "failure": "made_up"}


def test_table(tmp_path: Path) -> None:
    label = save(tmp_path / "p.nii.gz", {(1, 1, 1): 1})
    other = save(tmp_path / "r.nii.gz", {(1, 1, 1): 1, (2, 2, 2): 2})
    result = CliRunner().invoke(
        app, ["score", str(label), str(other), "--organs", "bladder=1,prostate=2"]
    )
    assert result.exit_code == 0
    rows = [line for line in result.stdout.splitlines() if "bladder" in line or "prostate" in line]
    assert "1.0000" in rows[0]
    assert "0.000" in rows[0]
    assert "undefined" in rows[1]
    assert "failure: missed" in rows[1]


def test_what_touches_is_not_far_off_and_what_is_in_neither_is_not_perfect(tmp_path: Path) -> None:
    prediction = save(tmp_path / "p.nii.gz", {(1, 1, 1): 1, (0, 0, 0): 2})
    reference = save(tmp_path / "r.nii.gz", {(2, 1, 1): 1, (0, 0, 0): 2, (5, 6, 7): 2})
    result = CliRunner().invoke(app, ["score", str(prediction), str(reference), "--organs", ORGANS])
    beside, _, neither = (
        next(line for line in result.stdout.splitlines() if organ in line)
        for organ in ("bladder", "prostate", "rectum")
    )
    assert "failure: no overlap" in beside
    assert "in neither label" in neither and "1.0000" not in neither
    assert "remark" in result.stdout
    assert "note" not in result.stderr
    # All of them: a mistyped value looked perfect.
    command = ["score", str(prediction), str(reference), "--organs", "bladder=1,prostate=2"]
    empty = save(tmp_path / "e.nii.gz", {})
    command[1:3] = [str(empty), str(empty)]
    result = CliRunner().invoke(app, command)
    assert result.stderr.startswith("note: no organ is in either label; do --organs give")


def test_the_tolerance_can_be_given(tmp_path: Path) -> None:
    label = save(tmp_path / "p.nii.gz", {(1, 1, 1): 1})
    other = save(tmp_path / "r.nii.gz", {(2, 1, 1): 1})
    command = ["score", str(label), str(other), "--organs", "bladder=1", "--tolerance"]
    result = CliRunner().invoke(app, [*command, "3", "--json"])
    assert json.loads(result.stdout)["bladder"]["nsd"] == 1
    result = CliRunner().invoke(app, [*command, "2.9"])
    assert "NSD at 2.9 mm" in result.stdout
    assert "0.5000" in result.stdout
    for wrong in ("-1", "0", "nan", "inf", "1001"):
        assert CliRunner().invoke(app, [*command, wrong]).exit_code == 2


def test_mistakes_give_status_2_and_no_traceback(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nii.gz", {(1, 1, 1): 1})
    coarse = save(tmp_path / "coarse.nii.gz", {(1, 1, 1): 1}, spacing_z=1.0)
    foreign = save(tmp_path / "foreign.nii.gz", {(1, 1, 1): 9})
    for prediction, organs, message in [
        (coarse, ORGANS, "not on the reference's grid: spacing (0.5, 0.8, 1) mm against"),
        (foreign, ORGANS, "holds the values 9, allowed are 0 and bladder=1"),
        (tmp_path / "none.nii.gz", ORGANS, f"the folder (in {tmp_path})"),
        (good, "bladder", "is not name=value"),
    ]:
        result = CliRunner().invoke(app, ["score", str(prediction), str(good), "--organs", organs])
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stdout == ""
        assert not isinstance(result.exception, ValueError)


def test_with_both_the_prediction_is_in_the_sites_numbers_too(tmp_path: Path) -> None:
    label = save(tmp_path / "p.nii.gz", {(1, 1, 1): 21, (2, 2, 2): 22})
    (tmp_path / "A.yaml").write_text(
        "site: A\ndata: d\ncache: c\nstate: s\nlabels: {bladder: [21], prostate: [22]}\n"
    )
    command = ["score", str(label), str(label), "--organs", "bladder=1,prostate=2"]
    site = ["--site", "A", "--configs", str(tmp_path)]
    result = CliRunner().invoke(app, [*command, *site, "--both", "--json"])
    assert result.exit_code == 0
    assert {organ: score["dsc"] for organ, score in json.loads(result.stdout).items()} == {
        "bladder": 1,
        "prostate": 1,
    }
    for options, message in [
        (site, "case prediction: label map p.nii.gz holds the values 21, 22"),
        (["--both"], "--both: needs --site"),
    ]:
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())


def test_organs_are_parsed() -> None:
    assert parse_organs(" bladder=1, seminal_vesicle2 = 255 ,") == {
        "bladder": 1,
        "seminal_vesicle2": 255,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "none is given; give at least one"),
        ("bladder", "'bladder': is not name=value"),
        ("bladder=one", "is not name=value"),
        ("bladder=-1", "is not name=value"),
        ("bladder=1,bladder=2", "organ bladder: is given twice"),
        ("bladder=1,prostate=1", "bladder and prostate: both have the value 1"),
        ("Bladder=1", "organ name 'Bladder': must be lower-case"),
        ("=1", "organ name ''"),
        ("bladder=0", "value 0 is not from 1 to 255; 0 is background"),
        ("bladder=256", "value 256 is not from 1 to 255"),
    ],
)
def test_wrong_organs_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_organs(text)
    assert message in str(caught.value)


def test_all_mistakes_of_organs_are_reported_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        check_organs({"A": 1, "b": 1, "c": 300})
    assert str(caught.value).count(";") >= 2
    assert "'A'" in str(caught.value)
    assert "A and b" in str(caught.value)
    assert "300" in str(caught.value)


@pytest.mark.parametrize("tolerance", ["nan", "inf", "0", "-1", "1001"])
def test_a_tolerance_is_a_length(tmp_path: Path, tolerance: str) -> None:
    drawn = str(save(tmp_path / "p.nii.gz", {(1, 1, 1): 1}))
    given = ["score", drawn, drawn, "--organs", ORGANS, "--tolerance", tolerance]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2
    assert "--tolerance: must be over 0 and 1000 mm at most" in result.output
