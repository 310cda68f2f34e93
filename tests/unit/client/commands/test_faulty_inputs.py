"""Every faulty input at once, as a data manager meets them: each is told, none stops the others."""

import re

import bad_cases as bad
import faulty

from protocol.config.rules import RULES


def test_every_input_has_a_name_of_its_own_and_a_known_rule() -> None:
    inputs = faulty.all_inputs()
    assert not inputs.keys() & {*bad.KINDS, *bad.GOOD}
    for name, each in inputs.items():
        assert re.fullmatch(r"[a-z0-9_]+", name)
        assert each.rule in ("", *RULES), name
        assert each.kind and each.what, name
        assert each.said if each.rule else each.volumes_ml or each.said, name
