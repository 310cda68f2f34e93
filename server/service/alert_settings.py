"""centre/alerts.yaml: where alerts go, and from when on something is one.

URLs hold passwords: no message quotes a value of this file, and only its user may read it.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import (
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from asdnet_models.fields import Frozen, Name
from protocol.config.explanation import explain
from protocol.config.yaml_text import EncodingError, load_yaml, read_utf8

ALERTS_FILE = "alerts.yaml"

Kind = Literal[
    "needs_you",
    "died",
    "finished",
    "left_out_twice",
    "no_improvement",
    "site_absent",
    "certificate",
    "disk",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_MAX_CHANNELS = 16


class AlertsError(ValueError):
    """alerts.yaml cannot be read or breaks rules; lists every mistake, and none of its values."""


class Channel(Frozen):
    """One way by which alerts leave this machine."""

    url: SecretStr | None = Field(
        None, description="a URL of apprise, such as mailtos://... or json://..."
    )
    url_from: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")] | None = Field(
        None, description="the variable of the environment that holds the URL"
    )
    command: (
        Annotated[
            tuple[Annotated[str, Field(max_length=4096)], ...], Field(min_length=1, max_length=64)
        ]
        | None
    ) = Field(None, description="a program and its arguments; the alert is JSON on its input")
    # Not `on`, which YAML takes for true.
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1, max_length=64)] = Field(
        KINDS, description="the kinds of alert that it gets"
    )
    name: Name = Field("", description="what messages call it; else scheme, variable or program")

    @field_validator("url")
    @classmethod
    def _url_is_one(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not _URL.fullmatch(url.get_secret_value()):
            raise ValueError("must be a URL of apprise, such as mailtos://... or json://...")
        return url

    @model_validator(mode="after")
    def _has_one_way(self) -> "Channel":
        if sum(way is not None for way in (self.url, self.url_from, self.command)) != 1:
            raise ValueError("must have one of url, url_from and command")
        return self

    @property
    def title(self) -> str:
        """What it is called where it was given no name; never a part of a URL but its scheme."""
        if self.name:
            return self.name
        if self.url is not None:
            return self.url.get_secret_value().partition("://")[0].lower()
        return self.url_from or Path((self.command or ("",))[0]).name

    def target(self, environment: Mapping[str, str] = os.environ) -> str:
        """The URL; empty where it is a command, or the environment does not hold one."""
        if self.url is not None:
            return self.url.get_secret_value()
        return environment.get(self.url_from or "", "").strip()


class AlertSettings(Frozen):
    """What alerts.yaml says; without the file nothing is sent."""

    channels: Annotated[tuple[Channel, ...], Field(max_length=_MAX_CHANNELS)] = Field(
        (), description="where alerts go"
    )
    certificate_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        30, description="alert of a certificate that ends within so many days"
    )
    disk_free_gib: Annotated[float, Field(ge=0, le=1e6)] = Field(
        5.0, description="alert of less free space on the disk of the centre's folder"
    )
    no_improvement_rounds: PositiveInt = Field(
        10, description="alert after so many rounds with scores without a better validation DSC"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "AlertSettings":
        given = [channel.name for channel in self.channels if channel.name]
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"channels: give each a name of its own, not twice {', '.join(twice)}")
        return self

    @property
    def by_name(self) -> dict[str, Channel]:
        """The channels, each by a name of its own; the state of what was sent goes by it."""
        named: dict[str, Channel] = {}
        for channel in self.channels:
            name, number = channel.title, 1
            while name in named:
                number += 1
                name = f"{channel.title} {number}"
            named[name] = channel
        return named


def read_alert_settings(centre: Path) -> AlertSettings:
    """What the centre's alerts.yaml says; the defaults where there is none.

    Raises:
        AlertsError: With every mistake of the file.
    """
    path = centre / ALERTS_FILE
    if not path.exists():
        return AlertSettings()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise AlertsError(
                f"{path}: others of this machine may read it (mode {mode:o}), and its URLs hold"
                " passwords: run chmod 600 on it"
            )
        content = load_yaml(read_utf8(path))
    except OSError as error:
        raise AlertsError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except EncodingError as error:
        raise AlertsError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise AlertsError(f"{path}: is not YAML: {_problem(error)}") from None
    if not isinstance(content, dict):
        raise AlertsError(f"{path}: must hold keys and values, such as `channels: [...]`")
    try:
        return AlertSettings.model_validate(content)
    except ValidationError as error:
        raise AlertsError(explain(error, str(path), secret=True)) from None


def _problem(error: yaml.YAMLError) -> str:
    """Without the line of the file, which YAML's own message quotes."""
    mark = getattr(error, "problem_mark", None)
    line = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{line}{getattr(error, 'problem', None) or 'it cannot be parsed'}"
