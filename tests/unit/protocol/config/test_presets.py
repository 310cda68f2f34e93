"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "56d93f6af726dd3ab1e3ab3261d75e17b46558c09b3b0ce59711c5022859be2e",
    "quick": "6ec0bed28d07985baab5666207da1dfc021240b41cc760007fab83c7b713bccb",
    "planned": "d0eafca4cc528e972317e0c639885eca5f50e9bd9414313469027c21da693016",
    "paper": "e0f8d08ddb090f936443f7e4c396153e4d66c8a0334c44634be0d1be538ebbe9",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "c705ab3d0814f8658b36cca2732963bdcde449aebf9e68de9572a1fff62ef15f",
    "quick": "c0723e6140ff79fcadefcd623d09ae0a2c6daf4937e8262d843c372e8c153f06",
    "planned": "2efc4e3aa683eb182868cb4727bdb4c2429a7e46e942dfaedc3fd9e4ec519503",
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
