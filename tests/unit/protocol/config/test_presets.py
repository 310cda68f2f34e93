"""A preset's digest names the study in every record of it: a refactor leaves it as it is."""

import pytest

from protocol.config.presets import PresetName, as_paper, preset
from protocol.config.study import StudyProtocol

DIGESTS: dict[PresetName, str] = {
    "smoke": "aaaee6d1e26dba77a126a51ece223c1c441f5484a370c180c91188922dfc50dc",
    "quick": "f49837c92152fe1bd61ade5e29eb722babee0353e7e77e2d9bce8a08f832536c",
    "planned": "7428c290816ae2808a260dc1f194808fdc9294caad281e75ff5abad9fc100bbc",
    "paper": "5ccc7b11d5183a0ba781c8538e6b6cf80a5e7793190f35e21725e32ac7409bce",
}
AS_PAPER: dict[PresetName, str] = {
    "smoke": "25da3c4b165b893153c302c6fe78dae349eca0cc1f4a52a7f7851d8335bc54dc",
    "quick": "14231f866aef5d94f38aca673cb1db63588f157126a1f26cc9fa29c40376bc31",
    "planned": "3f3d2e73135a342e22182e80253e3d722117b17658cd03832cd7bc578a4cd5f8",
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
