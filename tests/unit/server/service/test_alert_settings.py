"""alerts.yaml: what it may say, and that no message quotes a URL."""

from pathlib import Path

import pytest

from server.service.alert_settings import (
    KINDS,
    AlertsError,
    AlertSettings,
    read_alert_settings,
)

SECRET = "topsecret"  # pragma: allowlist secret


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "alerts.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def mistakes(folder: Path, text: str, mode: int = 0o600) -> list[str]:
    write(folder, text, mode)
    with pytest.raises(AlertsError) as error:
        read_alert_settings(folder)
    assert SECRET not in str(error.value)
    return str(error.value).splitlines()


def test_without_a_file_nothing_is_sent(tmp_path: Path) -> None:
    assert read_alert_settings(tmp_path) == AlertSettings()
    assert AlertSettings().channels == ()


def test_each_channel_has_a_name_that_shows_no_url(tmp_path: Path) -> None:
    write(
        tmp_path,
        "channels:\n"
        f"  - {{url: 'mailtos://u:{SECRET}@example.org'}}\n"
        f"  - {{url: 'mailtos://v:{SECRET}@example.org', kinds: [died, disk]}}\n"
        "  - {url_from: ALERT_URL}\n"
        "  - {command: [/usr/local/bin/page, now]}\n"
        "  - {name: on call, command: [page]}\n",
    )
    settings = read_alert_settings(tmp_path)
    assert list(settings.by_name) == ["mailtos", "mailtos 2", "ALERT_URL", "page", "on call"]
    assert settings.channels[0].kinds == KINDS
    assert settings.channels[1].kinds == ("died", "disk")
    assert settings.channels[0].target({}) == f"mailtos://u:{SECRET}@example.org"
    assert settings.channels[2].target({"ALERT_URL": "json://x\n"}) == "json://x"
    assert settings.channels[2].target({}) == settings.channels[3].target({}) == ""
    assert SECRET not in repr(settings)


def test_all_mistakes_are_told_at_once_without_a_value(tmp_path: Path) -> None:
    lines = mistakes(
        tmp_path,
        "channels:\n"
        f"  - {{url: '{SECRET}'}}\n"
        f"  - {{url: 'json://{SECRET}', command: [x]}}\n"
        f"  - {{kinds: [fire], urls: 'json://{SECRET}'}}\n"
        f"  - 'json://{SECRET}'\n"
        "certificate_days: 0\n"
        f"colour: {SECRET}\n",
    )
    told = "\n".join(line.partition("alerts.yaml: ")[2] for line in lines)
    assert "channels.0.url: must be a URL of apprise" in told
    assert "channels.1: must have one of url, url_from and command" in told
    assert "channels.2.kinds.0: must be 'needs_you'" in told
    assert "channels.2.urls: unknown key" in told
    assert "channels.3: must hold keys and values" in told
    assert "certificate_days: must be 1 or more" in told
    assert "colour: unknown key" in told


def test_one_name_is_not_given_twice(tmp_path: Path) -> None:
    twice = "{name: a, command: [x]}"
    (line,) = mistakes(tmp_path, f"channels: [{twice}, {twice}]")
    assert "not twice a" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"channels: [{{url: 'json://{SECRET}'\n a: b: c", "is not YAML: line 2: "),
        (f"channels: []\nchannels: [{SECRET}]", "stands in line 1 and in line 2"),
        (f"- json://{SECRET}", "must hold keys and values"),
        ("", "must hold keys and values"),
    ],
)
def test_what_is_no_such_file_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    (line,) = mistakes(tmp_path, text)
    assert words in line


def test_others_may_not_read_it(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "channels: []", mode=0o640)
    assert "mode 640" in line and "chmod 600" in line
