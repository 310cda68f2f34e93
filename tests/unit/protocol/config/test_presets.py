"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "670c6340d9e6a9af20a6a2ffc56c86e69071401b05291dc144db4137e1c869fe",
    "quick": "6716a1aa3e97b9b2da6a8759faa8bce4e012c0cfee2eb0d3527f0bd0a335f2ab",
    "planned": "282cd14d7450aef6d897f9d9a46013a3efa56fdb357ad39ccdba7086b1f89733",
    "paper": "f5e0c9961f364b657a18ffec732be2968d7039a548b250486f772cabb4f14473",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "a66f852e8f619a80adac8301bdd5ec01048083fbe4b15566d3bcfce6ec51e072",
    "quick": "a2264092a0ef00ceb31e2593cb7541b660b9e3885b35aa97c9ba117025a7ba5b",
    "planned": "abb5a8db2f9ebf97a634a0cdd5da9b85ece1b100bbe9fa162ad43151d5b7bb6b",
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
