"""Organs: valid names and values, every mistake at once."""

import pytest

from asdnet_models.organs import check_organs, parse_organs


def test_organs_of_the_paper() -> None:
    text = "bladder=1,prostate=2,rectum=3"
    assert parse_organs(text) == {"bladder": 1, "prostate": 2, "rectum": 3}
    assert parse_organs(" bladder = 1 , rectum=255,") == {"bladder": 1, "rectum": 255}


@pytest.mark.parametrize("name", ["Bladder", "1st", "seminal vesicles", "", "a-b", "a/b", "é"])
def test_invalid_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be lower-case letters") as caught:
        check_organs({name: 1})
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, 256])
def test_invalid_values(value: int) -> None:
    with pytest.raises(ValueError, match=rf"organ a: value {value} is not from 1 to 255"):
        check_organs({"a": value})


def test_two_organs_of_one_value() -> None:
    with pytest.raises(ValueError, match="organs a and b: both have the value 7"):
        check_organs({"a": 7, "b": 7})


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ValueError, match=r"organ name 'A'.*organ b: value 0.*organs A and c"):
        check_organs({"A": 1, "b": 0, "c": 1})


@pytest.mark.parametrize("text", ["", " , "])
def test_no_organ_at_all(text: str) -> None:
    with pytest.raises(ValueError, match="none is given; give at least one, such as bladder=1"):
        parse_organs(text)


@pytest.mark.parametrize(
    "entry", ["bladder", "bladder=", "bladder=one", "bladder=-1", "bladder=1.0"]
)
def test_an_entry_of_another_form(entry: str) -> None:
    with pytest.raises(ValueError, match=f"organ '{entry}': is not name=value"):
        parse_organs(f"rectum=3,{entry}")


def test_an_organ_given_twice() -> None:
    with pytest.raises(ValueError, match="organ rectum: is given twice"):
        parse_organs("rectum=3,rectum=4")
