"""--data in nnU-Net's layout: `_0000` in the images' names, and what dataset.json says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from client.data.errors import ScanError
from client.data.folder.layout import find_cases
from protocol.config.study import ProtocolError, StudyProtocol
from simulation.commands.options import SharedOptions
from simulation.commands.organs import organs_of
from simulation.errors import SplitError
from simulation.folds import choose_fold
from simulation.layouts import find_files, read_cohort
from simulation.split import deal_to_sites, write_sites

SAID = {
    "channel_names": {"0": "T2"},
    "labels": {"background": 0, "Prostate": 1, "Left Lobe": 2},
    "numTraining": 8,
    "file_ending": ".nii.gz",
}


def scan(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 90, (4, 5, 6)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def say(folder: Path, **changes: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps(SAID | changes))


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset007_Prostate"
    for number in range(8):
        scan(folder / "imagesTr" / f"case_{number}_0000.nii.gz", number)
        scan(folder / "labelsTr" / f"case_{number}.nii.gz", number)
    for number in range(2):
        scan(folder / "imagesUn" / f"more_{number}_0000.nii.gz", 10 + number)
    # nnU-Net's test images, which have no labels, are no matter of a simulation.
    scan(folder / "imagesTs" / "test_0_0000.nii.gz", 20)
    say(folder)
    return folder


def test_cases_have_their_names_without_the_channel(nnunet: Path, tmp_path: Path) -> None:
    cases = choose_fold(deal_to_sites(read_cohort(nnunet, 8, 2), 2, 1), 1, 1)
    names = [*(f"case_{n}" for n in range(8)), "more_0", "more_1"]
    assert sorted(case.name for case in cases) == names
    configs = write_sites(cases, tmp_path / "sites", tmp_path / "cache", device="cpu", threads=1)
    linked = [case for config in configs.values() for case in find_cases(config.data)]
    assert sorted(case.name for case in linked) == names
    assert {case.image.name for case in linked} == {f"{name}.nii.gz" for name in names}
    assert find_files(nnunet).mistakes == ()


def test_organs_are_those_of_dataset_json(nnunet: Path) -> None:
    assert organs_of(nnunet, None, "--data") == {"prostate": 1, "left_lobe": 2}
    assert organs_of(nnunet, "prostate=1,left_lobe=2", "--data") == {"prostate": 1, "left_lobe": 2}
    say(nnunet, labels={"0": "background", "1": "Prostate"})
    assert organs_of(nnunet, None, "--data") == {"prostate": 1}


@pytest.mark.parametrize("given", ["prostate=2,left_lobe=1", "prostate=1", "gland=1,left_lobe=2"])
def test_other_organs_than_dataset_json_says(nnunet: Path, given: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        organs_of(nnunet, given, "--data")
    assert f"--organs: says {given}, but " in str(caught.value)
    assert "says background=0, Prostate=1, Left Lobe=2" in str(caught.value)


def test_regions_need_names_for_their_values(nnunet: Path) -> None:
    say(nnunet, labels={"background": 0, "whole": [1, 2], "core": 2})
    with pytest.raises(ScanError, match="regions of several values"):
        organs_of(nnunet, None, "--data")
    assert organs_of(nnunet, "edema=1,core=2", "--data") == {"edema": 1, "core": 2}
    with pytest.raises(ProtocolError, match=r"says background=0, whole=\(1, 2\), core=2"):
        organs_of(nnunet, "edema=1,core=3", "--data")


def test_voxels_that_nobody_annotated(nnunet: Path) -> None:
    say(nnunet, labels={"background": 0, "prostate": 1, "ignore": 2})
    with pytest.raises(ScanError, match="ignores the value 2"):
        organs_of(nnunet, None, "--data")
    # Where they are not in the label maps; a voxel of that value is refused when it is read.
    assert organs_of(nnunet, "prostate=1", "--data") == {"prostate": 1}


def test_neither_organs_nor_dataset_json(nnunet: Path) -> None:
    (nnunet / "dataset.json").unlink()
    with pytest.raises(ProtocolError, match=r"needs --organs .* or a dataset\.json that says them"):
        organs_of(nnunet, None, "--data")
    assert organs_of(nnunet, "a=1", "--data") == {"a": 1}


def test_a_study_file_names_the_organs_where_the_folder_does_not(
    nnunet: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("base: planned\norgans: {gland: 4}\n", encoding="utf-8")
    # The folder comes first: another file that names others is refused by what calls this.
    assert organs_of(nnunet, None, "--data", study) == {"prostate": 1, "left_lobe": 2}
    (nnunet / "dataset.json").unlink()
    assert organs_of(nnunet, None, "--data", study) == {"gland": 4}
    assert organs_of(nnunet, "a=1", "--data", study) == {"a": 1}
    study.write_text("base: planned\n", encoding="utf-8")
    with pytest.raises(ProtocolError, match=r"needs --organs .* --study that names them"):
        organs_of(nnunet, None, "--data", study)


def test_a_folder_that_is_not_what_dataset_json_says(nnunet: Path) -> None:
    say(nnunet, channel_names={"0": "T2", "1": "ADC"}, file_ending=".nrrd", numTraining=9)
    lines = find_files(nnunet).mistakes
    assert len(lines) == 3
    for line, words in zip(
        lines, ("names 2 channels a case", "`file_ending` is '.nrrd'", "`numTraining` is 9"),
        strict=True,
    ):  # fmt: skip
        assert words in line
    with pytest.raises(SplitError, match="names 2 channels"):
        read_cohort(nnunet, 8, 2)


def test_a_study_that_names_other_organs(nnunet: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("organs: {prostate: 1}\n")
    with pytest.raises(ProtocolError, match="organs are prostate=1, the folder's are prostate=1,l"):
        SharedOptions(study=study).decided(nnunet, "--data")
    study.write_text("organs: {prostate: 1, left_lobe: 2}\n")
    decided = SharedOptions(study=study).decided(nnunet, "--data")
    assert isinstance(decided["protocol"], StudyProtocol)
    assert decided["protocol"].organs == {"prostate": 1, "left_lobe": 2}
    study.write_text("seed: 2\n")
    assert len(SharedOptions(study=study).decided(nnunet, "--data")["protocol"].organs) == 2


@pytest.mark.parametrize(
    ("given", "with_data", "words"),
    [
        ({"sites_file": Path("x"), "sites": 3}, True, ["--sites: has no effect beside"]),
        (
            {"sites_file": Path("x"), "labelled": 3, "unlabelled": 0},
            True,
            ["--labelled: has no effect", "--unlabelled: has no effect"],
        ),
        ({"sites_file": Path("x")}, False, ["--sites-file: goes with --data"]),
        ({"sites": 6}, False, ["--sites: goes with --data"]),
        (
            {"preset": "smoke", "labelled": 3, "unlabelled": 0},
            False,
            ["--labelled: goes with --data", "--unlabelled: goes with --data"],
        ),
    ],
)
def test_options_that_would_have_no_effect(
    nnunet: Path, given: dict[str, Any], with_data: bool, words: list[str]
) -> None:
    with pytest.raises(ProtocolError) as caught:
        SharedOptions(**given).decided(nnunet if with_data else None, "--data")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(words)
    for line, said in zip(lines, words, strict=True):
        assert line.startswith(said)


def test_a_made_cohort_keeps_its_sites_unasked(nnunet: Path) -> None:
    entries = [{"name": f"case_{n}", "site": "XY"[n > 3]} for n in range(8)]
    (nnunet / "cohort.json").write_text(json.dumps({"cases": entries}))
    dealt = deal_to_sites(read_cohort(nnunet, 8, 0), None, 1)
    assert [case.site for case in dealt] == list("XXXXYYYY")
    (nnunet / "cohort.json").write_text("{}")
    with pytest.raises(SplitError, match=r"cohort\.json: is no made cohort's"):
        read_cohort(nnunet, 8, 0)
