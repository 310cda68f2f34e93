"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "14b5d07c38d19d2701a645139661802e05bc51dbaeee2a4aac6098f7196935b6",
    "quick": "7ac3ee2bb7b53195a4ac12bd7adfa8fe163b16be284e95d1c60251b333b16974",
    "paper": "5d00f0aa44bc716cc2f891e8270b7a3460c2a6caa3d90326f1f1a7037ddca10e",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "da70abbaf46240cc334d023fd339bd99bda523481ea98771c11fee74ea4ce78b",
    "quick": "899efafa862b3c97e3f9e5502f94eec1c37a4f0de1f5ec7ccbf602b9a2065a3e",
    "paper": DIGESTS["paper"],
}


@pytest.mark.parametrize("name", DIGESTS)
def test_a_preset_has_its_stored_digest(name: PresetName) -> None:
    assert preset(name).digest == DIGESTS[name]
    assert as_paper(name).digest == AS_PAPER[name]


@pytest.mark.parametrize("name", DIGESTS)
def test_a_preset_comes_back_from_its_own_json(name: PresetName) -> None:
    study = preset(name)
    assert StudyProtocol.model_validate_json(study.canonical_json()) == study
