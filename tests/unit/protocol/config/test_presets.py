"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "64a5da9449844b150869a3a6c1d68fe05a1091e9fc38674350f879aee15c0d99",
    "quick": "d39f6b262a3fcc306ea5cca2386e63bda04ab8c6dd15b352cccbdf0726d3c815",
    "planned": "ddd79a5cca1ee0d6d74b8387ab5c262541e7e25de2961c66a7ce33a18981224f",
    "paper": "7f4e426d92bc1ca84184e653fd1dd765240f66fabffb2397e576c51f5d757f6f",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "cc74d873ee322b4aa7e5b01cc85d5eb51d0325b5a53882b8abbd755f9eea0b12",
    "quick": "f90c141e8cb3bf11f26fddedc4f17089d78f3c780da8ccf96bef94e846204835",
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
