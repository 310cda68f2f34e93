"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "18803c4238677af6e696e4b42d2db256bd7f9894a5d06d1f106704202818a296",
    "quick": "eecbc1661c98d30c74cb4db8442f71509cd1f546db54f2a5c8c26ad47ed01475",
    "paper": "94fcf9db650074d7f518659ef1e910250ceb10ff73e0e693a37203814d9b0277",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "75ba50fd034b56bc16fa36120a56c8bae6b481057d9160a3919d8eede09bdb2c",
    "quick": "cd8d7d8e613303274b844968bdcdfd060dab46a1ec9a086406b7a139fa2f7ad3",
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
