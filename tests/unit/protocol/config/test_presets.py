"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "dc559899c372e3e7e88a2ba45830e1be350378ed64cc763819da31070124d5c8",
    "quick": "34cbc7c6d4e16bc90e8a0a7c54f1745513af09735bb0c5dcae77c515d848b48b",
    "planned": "ddd79a5cca1ee0d6d74b8387ab5c262541e7e25de2961c66a7ce33a18981224f",
    "paper": "7f4e426d92bc1ca84184e653fd1dd765240f66fabffb2397e576c51f5d757f6f",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "fb2ef11491809acf800fa784a0defa2e3db3f0ffb94588212bec886f43a62ae5",
    "quick": "91a2ecba588d0c070dda3f43a35acf3366ca5858361a153946889a168716af23",
    "planned": "2d482b6f71fa5e5e561017ac2f623aa50658371a2a6b3109c65505163af899f3",
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
