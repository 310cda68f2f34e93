"""The main job as a user runs it, on tiny phantoms, through Flower's own simulation engine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from asdnet_models.networks import build_confidence, build_segmenter
from client.data.dataset import prepare_site
from client.training.round import train_round
from protocol.config.presets import preset
from protocol.config.schedule import plan_round
from protocol.config.site import read_site
from protocol.config.study import StudyProtocol
from protocol.wire.weights import wire_weights
from server.rounds.watchers import Watcher
from simulation.engine import simulate
from simulation.phantom.cohort import make_cohort

ROOT = Path(__file__).parents[2]
COUNTS = {"A": (5, 0), "B": (5, 1), "C": (0, 2)}


def tiny_protocol(**training: Any) -> StudyProtocol:
    content = preset("smoke").model_dump()
    content["patch_voxels"] = (24, 24, 16)
    content["spacing_mm"] = (9.0, 9.0, 9.0)
    content["network"]["width"] = 2
    content["confidence"]["width"] = 2
    content["training"] |= {"rounds": 2, "local_steps": 2, "batch_size": 1}
    content["training"] |= {"ramp": {"adversarial_start": 0.0, "region_start": 0.0, "length": 0.0}}
    content["training"] |= training
    content["evaluation"]["every_rounds"] = 1
    return StudyProtocol.model_validate(content)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "phantom"
    make_cohort(folder, seed=3, voxel_mm=6.0, counts=COUNTS, workers=2)
    return folder


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "simulation" / "run.py"), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=cwd or ROOT,
        env=environment,
        timeout=400,
    )


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    # JSON is YAML.
    path.write_text(json.dumps(tiny_protocol().model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def arguments(
    cohort: Path, study_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Any]:
    cache = tmp_path_factory.mktemp("cache")
    return [
        "--data", cohort, "--organs", "bladder=1,prostate=2,rectum=3", "--study", study_file,
        "--labelled", 10, "--unlabelled", 3, "--sites", 3, "--cache", cache, "--seed", 5,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished(arguments: list[Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("runs") / "first"
    done = run(*arguments, "--pooled", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_result_folder_is_complete(finished: tuple[Path, str]) -> None:
    out, printed = finished
    result = json.loads((out / "result.json").read_text())
    assert [item["round"] for item in result["rounds"]] == [1, 2]
    assert set(result["rounds"][0]["sites"]) == {"A", "B", "C"}
    assert result["sites"]["C"]["labelled"] == 0
    assert set(result["sites"]["A"]["local_only"]["dsc"]) == {"bladder", "prostate", "rectum"}
    assert "local_only" not in result["sites"]["C"]
    assert set(result["sites"]["A"]["pooled_equal_steps"]["dsc"]) == {
        "bladder", "prostate", "rectum",
    }  # fmt: skip
    # A, B and C, of two steps each: C trains from the first round in this study.
    assert [item["steps"] for item in result["rounds"]] == [6, 6]
    assert "of the mean DSC of pooled training" in printed and "12 optimiser steps each" in printed
    assert not (out / "pooled").exists()
    assert result["sites"]["C"]["withheld"]["dsc"]["rectum"]["n"] == 2
    assert sum(site["test_cases"] for site in result["sites"].values()) == 2
    assert result["rounds"][1]["bytes_up"] > 0
    for name in ("model/best/model.safetensors", "model/best/protocol.json",
                 "model/best/model.json", "model/final/model.safetensors",
                 "tables/sites.csv", "tables/rounds.csv",
                 "protocol.json", "mlflow.db"):  # fmt: skip
        assert (out / name).is_file(), name
    assert "round   2/2" in printed
    assert "labelled sites gained from the federation" in printed
    assert f"mlflow ui --backend-store-uri sqlite:///{out / 'mlflow.db'}" in printed


def test_picture_shows_every_site(finished: tuple[Path, str], cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "sites.png"
    script = [sys.executable, "-m", "simulation.cli", "picture", str(finished[0]), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*script, "--withheld", str(cohort / "labelsUn")],
        capture_output=True, encoding="utf-8", check=False, env=environment, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sitk.ReadImage(str(out)).GetWidth() > 500


def without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: without_times(v) for k, v in content.items() if k != "seconds"}
    if isinstance(content, list):
        return [without_times(item) for item in content]
    return content


def test_same_command_gives_the_same_file(
    finished: tuple[Path, str], arguments: list[Any], tmp_path: Path
) -> None:
    first, _ = finished
    done = run(*arguments, "--pooled", "--out", tmp_path / "again")
    assert done.returncode == 0, done.stderr
    results = [
        without_times(json.loads((folder / "result.json").read_text()))
        for folder in (first, tmp_path / "again")
    ]
    assert results[0] == results[1]


def test_a_site_with_one_drawn_organ_and_one_that_is_left_out(
    arguments: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "partly"
    done = run(
        *arguments, "--hide", "A=bladder,rectum", "--leave-out", "C", "--no-local-only",
        "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert set(result["sites"]) == {"A", "B"}
    assert result["cohort"]["hidden"] == {"A": ["bladder", "rectum"]}
    assert result["cohort"]["left_out"] == ["C"]
    a, b = result["sites"]["A"], result["sites"]["B"]
    assert a["annotated"] == {"bladder": 0, "prostate": a["labelled"], "rectum": 0}
    assert set(b["annotated"].values()) == {b["labelled"]}
    # The federation hears of the drawn organ alone; the study scores them all.
    assert set(a["dsc"]) == set(a["asd_mm"]) == {"prostate"}
    assert set(b["dsc"]) == {"bladder", "prostate", "rectum"}
    for site, of_site in (("A", a), ("B", b)):
        scores = result["by_study"][site]["dsc"]
        assert {organ: score["n"] for organ, score in scores.items()} == dict.fromkeys(
            ("bladder", "prostate", "rectum"), of_site["test_cases"]
        )
    assert result["by_study"]["A"]["dsc"]["prostate"] == a["dsc"]["prostate"]
    assert result["by_study"]["B"]["dsc"] == b["dsc"]
    assert "federated, by study**" in done.stdout
    labels = [*(out / "sites" / "A").glob("labels*/*")]
    assert labels
    for path in labels:
        assert not path.is_symlink()
        assert {*np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))} <= {0, 2}


def test_cases_go_to_the_hospitals_that_a_file_names(
    cohort: Path, study_file: Path, tmp_path: Path
) -> None:
    names = sorted(path.name.removesuffix(".nii.gz") for path in (cohort / "imagesTr").iterdir())
    rows = [f"{name},{'Leiden' if n < 6 else 'Oslo-2'},," for n, name in enumerate(names)]
    rows[0] += "twins"
    rows[1] += "twins"
    rows[9] = f"{names[9]},Oslo-2,test,"
    pool = sorted(path.name.removesuffix(".nii.gz") for path in (cohort / "imagesUn").iterdir())
    rows += [f"{name},Oslo-2,unlabelled," for name in pool]
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(["case,site,split,group", *rows]) + "\n")
    out = tmp_path / "out"
    options = [
        "--data", cohort, "--organs", "bladder=1,prostate=2,rectum=3", "--study", study_file,
        "--cache", tmp_path / "cache", "--sites-file", path, "--no-local-only", "--out", out,
    ]  # fmt: skip
    done = run(*options)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert set(result["sites"]) == {"Leiden", "Oslo-2"}
    assert len(result["cohort"]["sites_file"]) == 64
    parts = {p.name: p.parent.name for p in (out / "sites").glob("*/images*/*")}
    assert parts[f"{names[0]}.nii.gz"] == parts[f"{names[1]}.nii.gz"]
    assert parts[f"{names[9]}.nii.gz"] == "imagesTs"
    assert {parts[f"{name}.nii.gz"] for name in pool} == {"imagesUn"}
    text = path.read_text().replace(f"{names[3]},Leiden", f"{names[3]},Lei den")
    path.write_text(text.replace(",test,", ",tset,"))
    done = run(*options[:-1], tmp_path / "other")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 2
    assert "line 5: site 'Lei den' is no name of a site" in done.stderr
    assert "line 11: split 'tset' is none of" in done.stderr
    assert not (tmp_path / "other").exists()


def test_one_site_is_central_training(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Federating one site with its optimiser kept equals training it without a server."""
    protocol = tiny_protocol()
    protocol = protocol.model_copy(
        update={"aggregation": protocol.aggregation.model_copy(update={"min_sites": 1})}
    )
    config = read_site(finished[0] / "sites" / "B.yaml")
    through_flower = config.model_copy(update={"state": tmp_path / "flower"})
    record = simulate(protocol, {"B": through_flower}, Watcher(), workers=1)

    data = prepare_site(config, protocol)
    segmenter = wire_weights(build_segmenter(protocol).state_dict())
    confidence = wire_weights(build_confidence(protocol).state_dict())
    boxes = np.array([case.organ_box for case in data.labelled])
    for number in (1, 2):
        plan = plan_round(protocol, number, organ_box=tuple(boxes.sum(0) / len(boxes)))
        alone = config.model_copy(update={"state": tmp_path / "alone"})
        result = train_round(alone, protocol, plan, data, segmenter, confidence, run="alone")
        assert result.confidence is not None
        segmenter, confidence = result.segmenter, result.confidence
    for name, tensor in segmenter.items():
        torch.testing.assert_close(record.segmenter[name], tensor, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "term", "steps"),
    # Site A has no unlabelled scan: no pseudo-label, but an embedding of its labels.
    [
        ("semi-fcn", "pseudo", {"A": 0, "B": 2, "C": 2}),
        ("semi-embed", "embedding", {"A": 2, "B": 2}),
    ],
)
def test_the_other_methods_go_through_flower(
    finished: tuple[Path, str], tmp_path: Path, name: str, term: str, steps: dict[str, int]
) -> None:
    """Round 1 is supervised; in round 2 the term is on, at site C without a label too if it can."""
    content = tiny_protocol().model_dump()
    content["method"] |= {"name": name, "pseudo_labels_at": (0.5,)}
    content["training"]["ramp"]["region_start"] = 0.5
    sites = {
        site: read_site(finished[0] / "sites" / f"{site}.yaml").model_copy(
            update={"state": tmp_path / site}
        )
        for site in "ABC"
    }
    record = simulate(StudyProtocol.model_validate(content), sites, Watcher(), workers=1)
    first, second = (
        {site: report.losses[term].count for site, report in item.reports.items()}
        for item in record.rounds
    )
    assert first == {"A": 0, "B": 0}
    assert second == steps
    assert record.confidence is None


def test_a_result_is_never_overwritten(finished: tuple[Path, str], arguments: list[Any]) -> None:
    out, _ = finished
    before = (out / "result.json").read_bytes()
    done = run(*arguments, "--out", out)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert (out / "result.json").read_bytes() == before


def _label_on_other_grid(folder: Path) -> None:
    path = folder / "labelsTr" / "A_001.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path))[1:], str(path))


def _foreign_value(folder: Path) -> None:
    path = folder / "labelsTr" / "A_002.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path)) * 9, str(path))


def _truncated(folder: Path) -> None:
    path = folder / "imagesTr" / "A_001.nii.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _constant(folder: Path) -> None:
    path = folder / "imagesTr" / "A_003.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0, str(path))


def _four_dimensional(folder: Path) -> None:
    path = folder / "imagesTr" / "A_004.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))


def _duplicate(folder: Path) -> None:
    for kind in ("imagesTr", "labelsTr", "labelsRef"):
        source = folder / kind / "A_001.nii.gz"
        (folder / kind / "B_001.nii.gz").write_bytes(source.read_bytes())


def _orphan_label(folder: Path) -> None:
    (folder / "imagesTr" / "B_002.nii.gz").unlink()


def _empty(folder: Path) -> None:
    for path in (folder / "imagesTr").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_label_on_other_grid, "A_001: label A_001.nii.gz is not on the image grid: size"),
        (_foreign_value, "A_002"),
        (_truncated, "A_001"),
        (_constant, "A_003"),
        (_four_dimensional, "A_004"),
        (_duplicate, "B_001"),
        (_orphan_label, "case B_002: labelsTr holds its label map, imagesTr no image"),
        (_empty, "holds no scan that can be read"),
    ],
)
def test_bad_folder_is_one_clear_error(
    cohort: Path,
    arguments: list[Any],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    spoilt = tmp_path / "spoilt"
    for source in sorted(cohort.rglob("*")):
        if source.is_file():
            target = spoilt / source.relative_to(cohort)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    spoil(spoilt)
    changed = [spoilt if item == cohort else item for item in arguments]
    done = run(*changed, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--organs", "bladder=one"], "--organs"),
        (["--labelled", "99"], "lower --labelled"),
        (["--sites", "2"], "the cohort has 3 sites"),
        (["--study", "/nowhere.yaml"], "cannot be read"),
        (["--data", "/nowhere"], "no such folder"),
        (["--hide", "A"], "is not SITE=ORGAN,ORGAN"),
        (["--hide", "Z=rectum"], "is no site; the sites are A, B, C"),
    ],
)
def test_bad_arguments_are_one_clear_error(
    arguments: list[Any], tmp_path: Path, extra: list[str], words: str
) -> None:
    done = run(*arguments, *extra, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_unknown_key_and_odd_patch_are_reported_together(tmp_path: Path, cohort: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("patch_voxels: [60, 64, 16]\n")
    done = run("--data", cohort, "--organs", "a=1", "--study", study, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "patch_voxels: must be multiples of 8" in done.stderr
    study.write_text("gama: 0.5\ntraining: {rounds: 0}\n")
    done = run("--data", cohort, "--organs", "a=1", "--study", study, "--out", tmp_path / "out")
    assert "gama: unknown key" in done.stderr
    assert "training.rounds" in done.stderr
    assert not (tmp_path / "out").exists()
