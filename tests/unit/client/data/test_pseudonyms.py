"""Pseudonyms: the same for the same key and name, and told by nothing else."""

import hashlib
import hmac
import os
import stat
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from client.data.pseudonyms import (
    PseudonymKeyError,
    Pseudonyms,
    personal_key_file,
    read_or_make_key,
)

KEY = bytes(range(32))


def test_a_pseudonym_is_ten_digits_of_the_name_s_hmac() -> None:
    digits = hmac.new(KEY, "Müller^Änne 1957".encode(), hashlib.sha256).hexdigest()[:10]
    assert Pseudonyms(KEY).of("Müller^Änne 1957") == f"case-{digits}"


def test_another_key_gives_another_pseudonym() -> None:
    assert Pseudonyms(KEY).of("014") != Pseudonyms(bytes(32)).of("014")
    assert Pseudonyms(KEY).of("014") == Pseudonyms(KEY).of("014") != Pseudonyms(KEY).of("015")


def test_names_that_are_not_unicode_have_one_too() -> None:
    assert Pseudonyms(KEY).of(os.fsdecode(b"M\xfcller")).startswith("case-")


def test_a_seal_is_no_pseudonym() -> None:
    seal = Pseudonyms(KEY).seal("014")
    assert len(seal) == 64
    assert not Pseudonyms(KEY).of("014").endswith(seal[:10])
    assert seal != Pseudonyms(bytes(32)).seal("014")


def test_a_key_is_made_once_and_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "state" / "pseudonym.key"
    key = read_or_make_key(path)
    assert len(key) == 32
    assert read_or_make_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["pseudonym.key"]
    assert read_or_make_key(tmp_path / "other.key") != key


def test_processes_that_come_at_once_get_one_key(tmp_path: Path) -> None:
    with ThreadPool(8) as pool:
        keys = pool.map(read_or_make_key, [tmp_path / "pseudonym.key"] * 16)
    assert len(set(keys)) == 1


@pytest.mark.parametrize("content", ["", "00" * 31, "00" * 33, "no key at all", "ä"])
def test_a_damaged_key_is_reported_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pseudonym.key"
    path.write_text(content, "utf-8")
    path.chmod(0o600)
    with pytest.raises(PseudonymKeyError, match=r"pseudonym\.key: (must hold 64|cannot be read)"):
        read_or_make_key(path)
    assert path.read_text("utf-8") == content


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    read_or_make_key(path)
    path.chmod(0o640)
    with pytest.raises(PseudonymKeyError, match=r"mode 640.*chmod 600"):
        read_or_make_key(path)


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PseudonymKeyError, match="cannot be read or made"):
        read_or_make_key(tmp_path / "file" / "pseudonym.key")


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(PseudonymKeyError, match="No space left"):
        read_or_make_key(tmp_path / "pseudonym.key")
    assert os.listdir(tmp_path) == []


def test_without_a_site_the_key_is_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/settings")
    assert personal_key_file() == Path("/settings/asdnet/pseudonym.key")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/home/one")
    assert personal_key_file() == Path("/home/one/.config/asdnet/pseudonym.key")
