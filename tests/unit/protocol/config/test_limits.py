"""The limits of a site's file."""

from datetime import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from protocol.config.limits import SiteLimits
from protocol.config.site import read_site
from protocol.config.study import ProtocolError

SITE = "site: A\ndata: d\ncache: c\nstate: s\n"


def limits_of(folder: Path, text: str) -> SiteLimits:
    path = folder / "A.yaml"
    path.write_text(f"{SITE}limits:\n  {text}\n", encoding="utf-8")
    return read_site(path).limits


def test_a_file_without_limits_has_the_safe_ones(tmp_path: Path) -> None:
    (tmp_path / "A.yaml").write_text(SITE)
    limits = read_site(tmp_path / "A.yaml").limits
    assert (limits.min_cases, limits.min_patches, limits.min_local_steps) == (3, 20, 10)
    assert (limits.evaluations_per_round, limits.attempts_per_round) == (3, 10)
    assert limits.hours == ()


def test_limits_are_read(tmp_path: Path) -> None:
    limits = limits_of(tmp_path, "{cache_gib: 2.5, hours: [20:00-06:00, 12:00-13:30]}")
    assert limits.cache_gib == 2.5
    assert limits.open_hours == ((time(20), time(6)), (time(12), time(13, 30)))
    assert limits.max_width == SiteLimits().max_width


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("{min_case: 3}", "limits.min_case: unknown key"),
        ("{min_cases: 0}", "limits.min_cases"),
        ("{cache_gib: .inf}", "limits.cache_gib"),
        ("{cache_gib: .nan}", "limits.cache_gib"),
        ("{max_memory_gib: 0}", "limits.max_memory_gib"),
        ("{hours: [20:00-]}", "limits.hours: '20:00-' is no range of times; write 20:00-06:00"),
        ("{hours: [20:00-24:30]}", "limits.hours: '20:00-24:30' is no range of times"),
        ("{hours: [8:00-9:00]}", "limits.hours: '8:00-9:00' is no range of times"),
        ("{hours: [08:00-08:00]}", "limits.hours: must end at another time than it begins"),
        ("{hours: 20:00-06:00}", "limits.hours: must be a list"),
        ("{evaluations_per_round: -1}", "limits.evaluations_per_round"),
    ],
)
def test_a_mistake_names_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ProtocolError, match=rf"A\.yaml: {key}"):
        limits_of(tmp_path, text)


# `fingerprint` is given or not; all others are so much.
@pytest.mark.parametrize("name", sorted(set(SiteLimits.model_fields) - {"fingerprint"}))
def test_a_truth_value_is_no_limit(name: str) -> None:
    with pytest.raises(ValidationError, match=r"must be a number, not true|valid tuple"):
        SiteLimits.model_validate({name: True})
