"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "9e035a16e4172f4745d78d6f57c934b68b4e9d3fb21afb4c14fce34154bc5bb8",
    "quick": "058114fd6bd234f194fc233968f2ed3b802b3cb3c10a99fa43515e6e9d075ead",
    "paper": "f51b69445ca43b20fe9956be497f1547fa3ab324092f291b951766d34f7df0cc",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "1e907788d7dbc3afc0d5f1d047d193ff2fabce593db528522f77b9ab25228a48",
    "quick": "75b2fbe7f1b29c4c3498c799fec0d1d20649e516310336e4511355917c7622b2",
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
