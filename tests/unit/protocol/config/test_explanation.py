"""What is wrong with a study or site file, in our words: key, rule, value."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from protocol.config.explanation import explain
from protocol.config.site import SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.config.study_file import read_study

SITE = {"site": "A", "data": "d", "cache": "c", "state": "s"}
# Values of every kind, none of which all fields take.
ODD: tuple[Any, ...] = (
    -7,
    1e9,
    float("inf"),
    0.5,
    "x y/\\",
    True,
    None,
    [],
    [5],
    ["a", 3],
    {"a": 1},
)
_PYDANTIC = re.compile(
    r"Input|should|valid |Value error|unable to|instance of|Tuple|Field required"
)


def told(model: type[BaseModel], content: dict[str, Any]) -> list[str]:
    try:
        model.model_validate(content)
    except ValidationError as error:
        return explain(error, "file").splitlines()
    return []


def fields(model: type[BaseModel], *above: str) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*above, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields(field.annotation, *above, name)


@pytest.mark.parametrize(("model", "start"), [(StudyProtocol, {}), (SiteConfig, SITE)])
def test_no_words_of_pydantic_reach_a_user(model: type[BaseModel], start: dict[str, Any]) -> None:
    seen = 0
    for path in fields(model):
        for value in ODD:
            content: Any = value
            for key in reversed(path):
                content = {key: content}
            for line in told(model, {**start, **content}):
                seen += 1
                assert line.startswith(f"file: {path[0]}"), line
                assert not _PYDANTIC.search(line), line
    assert seen > 200


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "training: [rounds, 3]",
            "training: must hold keys and values, key: value, not ['rounds', 3]",
        ),
        ("training: {rounds: many}", "training.rounds: must be a whole number, not 'many'"),
        ("training: {rounds: 2.5}", "training.rounds: must be a whole number, not 2.5"),
        ("training: {rounds: 0}", "training.rounds: must be 1 or more, not 0"),
        ("training: {rounds: 1000000}", "training.rounds: must be 100,000 or less, not 1000000"),
        ("training: {lr_segmenter: fast}", "training.lr_segmenter: must be a number, not 'fast'"),
        (
            "training: {views: Strong}",
            "training.views: must be 'none', 'weak' or 'strong', not 'Strong'",
        ),
        (
            "training: {flips: left-right}",
            "training.flips: must be a list, [...], not 'left-right'",
        ),
        (
            "network: {deep_supervision: maybe}",
            "network.deep_supervision: must be true or false, not 'maybe'",
        ),
        (
            "name: my study",
            "name: must be 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or"
            " digit, not 'my study'",
        ),
        ("name: 7", "name: must be text, not 7"),
        ("spacing_mm: [1, 1]", "spacing_mm.2: is missing"),
        ("training: {augment: true}", "training.augment: is now 'views': weak (was true) or none"),
        ("gama: true", "gama: unknown key; remove it or correct its spelling (is true)"),
        (
            "training: {views: weak, turn_deg: 90}",
            "training: turn_deg must be left out where views is 'weak' (only strong views turn so"
            " far), not 90; leave it out, or set views to strong",
        ),
        (
            "network: {strides: [[2, 2, 2], [2, 2, 2], [2, 2, 2]], "
            "kernels: [[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]}",
            "network: kernels must be longer than 1 along an axis of a stage (a voxel alone shows"
            " no organ), not 1 everywhere",
        ),
    ],
)
def test_a_mistake_of_a_study_file(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ProtocolError) as caught:
        read_study(path)
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"{path}: {line}")


def test_a_value_of_several_kinds_is_one_mistake() -> None:
    assert told(SiteConfig, {**SITE, "device": "gpu"}) == [
        "file: device: must be 'auto', 'cpu' or 'cuda' or a GPU by its number, as cuda:0, not 'gpu'"
    ]
    (line,) = told(SiteConfig, {**SITE, "labels": {"ball": [[1]]}})
    assert line == "file: labels.ball.0: must be text or a whole number, not [1]"
    # An organ may be called as a kind is.
    (line,) = told(StudyProtocol, {"organs": {"int": "x"}})
    assert line == "file: organs.int: must be a whole number, not 'x'"


def test_a_secret_is_not_quoted() -> None:
    with pytest.raises(ValidationError) as error:
        SiteConfig.model_validate({**SITE, "threads": "topsecret", "colour": "topsecret"})
    for secret in (True, False):
        lines = explain(error.value, "file", secret=secret)
        assert ("topsecret" in lines) is not secret
        assert "threads: must be a whole number" in lines and "colour: unknown key" in lines
