"""Settings that do nothing are told; those that nobody has set are not."""

from typing import Any

import pytest

from protocol.config.idle import idle_settings
from protocol.config.presets import PRESET_NAMES, preset
from protocol.config.study import StudyProtocol, merged

TEACHER = {
    "method": {"name": "copy-paste", "lambda_region": 0.5},
    "training": {"views": "strong", "rounds": 20},
}


def told(*changes: dict[str, Any]) -> list[str]:
    protocol = StudyProtocol(name="idle")
    for change in changes:
        protocol = merged(protocol, change)
    return list(idle_settings(protocol))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_of_a_preset_nothing_is_told(name: Any) -> None:
    assert list(idle_settings(preset(name))) == []


def test_of_a_teacher_as_it_is_meant_nothing_is_told() -> None:
    assert told(TEACHER) == []
    for gate in ("weight", "softmax", "none"):
        assert told(TEACHER, {"method": {"gate": gate}}) == []
    assert told(TEACHER, {"method": {"gate": "softmax", "gamma_rule": "quantile"}}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": {"gate": "softmax"}}, "method.gate: softmax: has no effect with asdnet"),
        (
            {"method": {"name": "cross-pseudo", "teacher_decay": 0.5, "lambda_region": 0.5}},
            "method.teacher_decay: 0.5: has no effect with cross-pseudo; those with a teacher",
        ),
        ({"method": {"pseudo_labels_at": [0.5]}}, "with asdnet; semi-fcn read it"),
        ({"method": {"embedding_margin": 2}}, "with asdnet; semi-embed read it"),
    ],
)
def test_what_a_method_does_not_read(changes: dict[str, Any], words: str) -> None:
    (line,) = told({"training": {"rounds": 20}}, changes)
    assert words in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"method": {"gate": "softmax", "gamma_rule": "calibrated"}},
            "method.gamma_rule: calibrated: has no effect with copy-paste, gate softmax",
        ),
        ({"method": {"gate": "none", "gamma_rule": "quantile"}}, "gate none"),
        ({"method": {"lambda_region": 0}}, "learns nothing from unlabelled scans"),
        (
            {"training": {"ramp": {"region_start": 1.0}}},
            "training.ramp.region_start: 1: copy-paste learns nothing",
        ),
        (
            {"training": {"ramp": {"region_start": 0.9, "length": 0.5}}},
            "training.ramp.length: 0.5: what unlabelled scans teach ends at 2% of",
        ),
        ({"training": {"views": "none"}}, "training.views: none: copy-paste shows the model what"),
    ],
)
def test_what_keeps_a_teacher_from_teaching(changes: dict[str, Any], words: str) -> None:
    (line,) = told(TEACHER, changes)
    assert words in line
