"""Unit files for systemd: what runs for ever, with no more rights than it needs."""

import getpass
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from protocol.files import write_text
from protocol.wording import counted
from reporting.terminal import MISCONFIGURED

_CODE = Path(__file__).resolve().parents[1]
_HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@,+-]+")
# None of these keeps a program from computing, from threads or from the network.  Not here:
# MemoryDenyWriteExecute and SystemCallFilter (PyTorch compiles code, and Landlock is in no group of
# systemd 252), PrivateUsers and RestrictNamespaces (a site's worker makes namespaces).
_HARDENING = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "ProtectProc=invisible",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "SystemCallArchitectures=native",
)


class UnitError(ValueError):
    """A unit file cannot be written as asked."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One service.

    Attributes:
        name: Of the file, without its ending.
        description: A line.
        command: Program and arguments.
        user: Who runs it.
        writable: Folders in which it writes; all else is read-only.
        readable: Others that it reads.
        environment: Variables.
        restart_s: Pause before it is started anew.
        options: Further lines of [Service].
        after: Units that are started before, where they are.
    """

    name: str
    description: str
    command: Sequence[str]
    user: str
    writable: Sequence[Path]
    readable: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    restart_s: int = 10
    options: Sequence[str] = ()
    after: Sequence[str] = ()

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.name}.service"

    def text(self) -> str:
        """The unit file.

        Raises:
            UnitError: A path or an argument cannot stand in one.
        """
        here = Path.cwd()
        needed = [*self.writable, *self.readable, here, _CODE, *_python()]
        in_home = any(path.is_relative_to(home) for path in needed for home in _HOMES)
        mounts = _outermost([*self.writable, *self.readable, here])
        own = [f"{name}={text}" for name, text in self.environment.items()]
        lines = [
            "[Unit]",
            f"Description={self.description}",
            "Wants=network-online.target",
            f"After={' '.join(('network-online.target', *self.after))}",
            *(f"Wants={unit}" for unit in self.after),
            f"RequiresMountsFor={_listed(mounts)}",
            "# It is started anew for ever.",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            f"User={self.user}",
            f"WorkingDirectory={_escaped(here)}",
            *(f"Environment={_word(text)}" for text in own),
            f"ExecStart={' '.join(_word(word, command=True) for word in self.command)}",
            "Restart=always",
            f"RestartSec={self.restart_s}",
            "# A wrong file: no start mends it.",
            f"RestartPreventExitStatus={MISCONFIGURED}",
            "TimeoutStopSec=60",
            "# It ends its own processes, and tells the other side.",
            "KillMode=mixed",
            "# One of its processes that takes too much memory does not end the others.",
            "OOMPolicy=continue",
            "UMask=0077",
            f"ReadWritePaths={_listed(self.writable)}",
            f"ProtectHome={'read-only' if in_home else 'yes'}",
            *_HARDENING,
            *self.options,
            "",
            "[Install]",
            "WantedBy=multi-user.target",
        ]
        return "\n".join(lines) + "\n"


def program(name: str, module: str) -> tuple[str, ...]:
    """How a command of ours is started from this environment, whatever the path is."""
    path = Path(sys.executable).absolute().with_name(name)
    return (str(path),) if path.is_file() else (sys.executable, "-m", module)


def user_of_service(given: str | None) -> str:
    """Who runs the service: as asked, or who gives the command.

    Raises:
        UnitError: It is no user's name, or would be root unasked.
    """
    user = given or getpass.getuser()
    if not _USER.fullmatch(user):
        raise UnitError(f"--user: must be a user's name, not {user!r}")
    if given is None and os.geteuid() == 0:
        raise UnitError("--user: name the user that the service is to run as, best not root")
    return user


def write_units(folder: Path, units: Sequence[Unit]) -> list[str]:
    """Write each into the folder, or none; what to do next, a line each.

    Raises:
        UnitError: One cannot be written as asked.
        OSError: The folder cannot be written.
    """
    texts = {unit.file: unit.text() for unit in units}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    files = " ".join(shlex.quote(str(folder / name)) for name in texts)
    names = " ".join(texts)
    return [
        f"{counted(len(texts), 'unit file')} written, for the user {units[0].user}; read, then:",
        f"  sudo install -m 644 {files} /etc/systemd/system/",
        "  sudo systemctl daemon-reload",
        f"  sudo systemctl enable --now {names}",
        f"Their state and log: systemctl status {names}; journalctl -u {units[0].name}",
    ]


def _python() -> list[Path]:
    return [Path(sys.prefix), Path(sys.base_prefix)]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Those that no other is above, sorted."""
    found: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in found):
            found.append(path)
    return found


def _listed(paths: Iterable[Path]) -> str:
    return " ".join(_word(str(path)) for path in dict.fromkeys(paths))


def _word(text: str, *, command: bool = False) -> str:
    """One word, in quotes where it must be; in a command a dollar is no variable."""
    escaped = _escaped(text)
    if command:
        escaped = escaped.replace("$", "$$")
    return escaped if _PLAIN.fullmatch(escaped) else f'"{escaped}"'


def _escaped(text: str | Path) -> str:
    """Without systemd's specifiers."""
    if not str(text).isprintable() or set(str(text)) & set("\"'\\"):
        raise UnitError(
            f"{str(text)!r}: quotes, backslashes and control characters cannot stand in a unit"
            " file; choose another folder"
        )
    return str(text).replace("%", "%%")
