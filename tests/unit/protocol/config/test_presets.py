"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "d022ee8e8f41bdc15c1db45edde76526cf8ec580410d2482fd1afc9cb8f9471f",
    "quick": "b9b5b445976ca27d4866a20609bf683fb2d337e3e83604738c282ab4e023f4f6",
    "paper": "675082925885b5459390b46aa08057e72082411914307acd46fe67d9b724b6b9",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "4abcee648e0e4a2d9ef2092b25d33e12cf11a88dcab6c4931e41ad8cb98e9fa7",
    "quick": "4e435f76951a1960739f5699256612ac2abca32a782b3239319b5643ea251801",
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
