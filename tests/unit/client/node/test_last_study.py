"""The study that was last heard of, as the site's own checks read it."""

from collections.abc import Callable

import pytest

from client.node.last_study import last_study
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

ABSURD = StudyProtocol().canonical_json().replace('"width":16', '"width":1000000000')


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no study of this version (1 mistake)"),
        (b"\xff\xfe{", "is no study of this version (1 mistake)"),
        (b"[" * 10**5, "is no study of this version (1 mistake)"),
        (b'{"sed": 3, "seed": -1}', "is no study of this version (2 mistakes)"),
        (ABSURD.encode(), "is no study of this version (2 mistakes)"),
    ],
    ids=["empty", "bytes", "deep", "keys", "absurd"],
)
def test_what_is_no_study_is_passed_over(
    make_site: Callable[..., SiteConfig], content: bytes, reason: str
) -> None:
    config = make_site(labelled=1)
    config.state.mkdir()
    config.protocol_file.write_bytes(content)
    assert last_study(config) == (
        None,
        f"{config.protocol_file}: {reason}; it is passed over, the next study writes it anew",
    )


def test_a_folder_in_its_place_is_passed_over(make_site: Callable[..., SiteConfig]) -> None:
    config = make_site(labelled=1)
    config.protocol_file.mkdir(parents=True)
    study, note = last_study(config)
    assert study is None
    assert "protocol.json: cannot be read (Is a directory); it is passed over" in note


def test_the_last_study_is_found(make_site: Callable[..., SiteConfig]) -> None:
    config = make_site(labelled=1)
    assert last_study(config) == (None, "")
    config.state.mkdir()
    config.protocol_file.write_text(StudyProtocol(seed=7).canonical_json())
    assert last_study(config) == (StudyProtocol(seed=7), "")
