"""The owner's token: a secret of the user who runs the SuperLink."""

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.admin.centre import Centre, CentreError, create_centre
from server.admin.owner import make_owner_token, owner_file, read_owner_token


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    made = Centre(folder=(tmp_path / "centre").resolve(), hosts=("localhost",))
    create_centre(made, ca_days=3650, now=datetime.now(UTC))
    return made


def test_it_is_256_bits_that_only_the_owner_reads(centre: Centre) -> None:
    before = os.umask(0)
    try:
        token = make_owner_token(centre)
    finally:
        os.umask(before)
    assert len(bytes.fromhex(token)) == 32
    assert stat.S_IMODE(owner_file(centre).stat().st_mode) == 0o600
    assert read_owner_token(centre) == token


def test_it_stays_from_start_to_start(centre: Centre) -> None:
    assert make_owner_token(centre) == make_owner_token(centre)


def test_one_that_others_could_read_is_made_anew(centre: Centre) -> None:
    token = make_owner_token(centre)
    owner_file(centre).chmod(0o640)
    assert make_owner_token(centre) != token
    assert stat.S_IMODE(owner_file(centre).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "secret", "ab" * 31, "ab" * 33, "zz" * 32, "ä" * 64])
def test_what_is_none_is_refused(centre: Centre, content: str) -> None:
    make_owner_token(centre)
    owner_file(centre).write_text(content)
    for use in (read_owner_token, make_owner_token):
        with pytest.raises(CentreError, match="delete it and restart the SuperLink"):
            use(centre)


def test_before_the_first_start_there_is_none(centre: Centre) -> None:
    with pytest.raises(CentreError, match="start the SuperLink, which makes it"):
        read_owner_token(centre)
