"""nnU-Net's channels in the names of images."""

from pathlib import Path

import pytest

from client.data.folder.channels import several_channels
from client.data.folder.layout import survey_folder


@pytest.mark.parametrize(
    ("images", "labels", "several"),
    [
        (["a_0000", "a_0001", "b_0000"], ["a", "b"], {"a": ["a_0000", "a_0001"]}),
        (["a_0000", "b_0000"], ["a", "b"], {}),
        # A count is no channel: the label bears it too, or there is one name alone.
        (["a_0000", "a_0001"], ["a_0000", "a_0001"], {}),
        (["a_0000", "a_0001", "a"], ["a_0000", "a_0001", "a"], {}),
        (["a_0000", "a_0001", "a_0002"], None, {}),
        (["a_0000", "b_0000"], None, {}),
        (["a_0000", "a_0001", "b_0000"], None, {}),
        (
            ["a_0000", "a_0001", "b_0000", "b_0001"],
            None,
            {"a": ["a_0000", "a_0001"], "b": ["b_0000", "b_0001"]},
        ),
        (["a_0001"], ["a"], {}),
    ],
)
def test_cases_of_several_channels(
    images: list[str], labels: list[str] | None, several: dict[str, list[str]]
) -> None:
    assert several_channels(images, labels) == several


def test_each_such_case_is_one_clear_refusal(tmp_path: Path) -> None:
    for file in (
        "imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a", "imagesTr/b_0000", "labelsTr/b",
        "imagesUn/c_0000", "imagesUn/c_0001", "imagesUn/d_0000", "imagesUn/d_0001",
    ):  # fmt: skip
        path = tmp_path / f"{file}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    survey = survey_folder(tmp_path)
    assert [str(refusal.problem) for refusal in survey.refused] == [
        f"case {case}: {folder} holds 2 channels of it, one can be read; keep the files of one"
        f" channel, as case_0000 ({case}_0000, {case}_0001)"
        for case, folder in (("a", "imagesTr"), ("c", "imagesUn"), ("d", "imagesUn"))
    ]
    assert {refusal.problem.rule for refusal in survey.refused} == {"dimensions"}
    assert [case.name for case in survey.cases] == ["b"]
