"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "52262fd621aaa9225850d7a6c00553f066d00de0a9ddee81f0635a54cac847f5",
    "quick": "8b50393368cc1722af3feaf60b78abbcef51404e2f1df176c1a65be8743a7191",
    "paper": "71f842f6ff2eb77685f13d5ce8b58cd6fc324e4536b007d8def5e1ccaa9bd473",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "bc70983986e596b6dfefdac333669eea273c49554e91a2b2c017930f6412f7c8",
    "quick": "75a0012255edd583a5c9bd435a8a67068f2b11c9bb83c2050c625c6ec89b4f2c",
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
