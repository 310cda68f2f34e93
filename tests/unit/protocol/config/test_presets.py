"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "dbf7b9ee10431312e6a11258a14d19a4b0596f373b23b9dc171123027f706ab9",
    "quick": "b49b33d4246e8de78420ade9fdab53798a93ad50368f8548a9c8685520b61d43",
    "planned": "93e5af6c63736ad48b4cbadf32c3f188e207ec7e0cfe2e95097a2c3ba354426e",
    "paper": "242d703d956a4a6af64f46a10a6b0cf49ea6b641e36722f0b48ae69920848999",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "9c3b9821e2870ba77d1e4745942aa1f6a841c6162671750ab048cb1eb8a2e159",
    "quick": "229a433e4fe76d8e11319b739dbb977cacc99aecac04dd394a99b0ad4f76fc1e",
    "planned": "a7d8833b6644a94e52146e6ef711812b8b01725550d22503a2896a4b6f268a73",
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
