"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "aee72a5b7541dbce50a1d9ccf1a33050f861f5b7eda379ed4140c5b57d31261c",
    "quick": "f910fc4b95e783fcd68710d05b71c55cd6e63c65ef21ce667bc33c9945a8d352",
    "planned": "e9c2c4e901af5d2144c3150a39019cb4da8386889bb6d8d12a47ec0e38d682b1",
    "paper": "f0c0b86019a77c4587cff9e8a24c6ed12defd593977a956c53e8991fc85a0fd7",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "bccb0a9ffe905301d7a6afdbbf65ba07625b9950601e9e9d2c34f6ee34434a37",
    "quick": "e28fcdd08ed220abbd7ec2316b9741ce2aaa2de78d8a092a621fb545653f8fa1",
    "planned": "982331db1bfc53815667890cb22870afb328a9631f2d521fc2aed2155603d8a2",
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
