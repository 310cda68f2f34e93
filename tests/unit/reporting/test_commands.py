"""The three commands as a user meets them: help, mistakes, and what is not imported for them."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click
import pytest
import typer
from click.testing import CliRunner

import client.cli
import server.cli
import simulation.cli
from reporting.commands import CommandGroup
from reporting.terminal import user_errors

ROOT = Path(__file__).parents[3]
GROUPS = {
    "asdnet-site": client.cli.app,
    "asdnet-centre": server.cli.app,
    "asdnet-sim": simulation.cli.app,
}
HEAVY = {"torch", "monai", "mlflow", "SimpleITK", "ray", "pandas", "matplotlib", "flwr"}
WIDTHS = (80, 100, 120)
# Prints what --help of every subcommand has loaded.
PROBE = """
import importlib, sys
app = importlib.import_module(sys.argv[1]).app
for name in ["", *app.list_commands(None)]:
    try:
        app([*name.split(), "--help"])
    except SystemExit as end:
        assert not end.code, name
print("loaded:", *sys.modules)
"""


def subcommands() -> Iterator[tuple[str, click.Command]]:
    for name, group in GROUPS.items():
        context = click.Context(group, info_name=name)
        yield name, group
        for subcommand in group.list_commands(context):
            command = group.get_command(context, subcommand)
            assert command is not None
            yield f"{name} {subcommand}", command


COMMANDS = dict(subcommands())


def test_three_commands_are_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {
        "asdnet-site": "client.cli:app",
        "asdnet-centre": "server.cli:app",
        "asdnet-sim": "simulation.cli:app",
    }


@pytest.mark.parametrize("room", ["client", "server", "simulation"])
def test_help_imports_nothing_heavy(room: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, f"{room}.cli"],
        capture_output=True, encoding="utf-8", check=True, cwd=ROOT, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    loaded = done.stdout.rpartition("loaded: ")[2].split()
    assert "reporting.commands" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("room", ["client", "server", "simulation"])
def test_telemetry_is_off_before_anything_else(room: str) -> None:
    body = ast.parse((ROOT / room / "cli.py").read_text(encoding="utf-8")).body
    first = next(node for node in body if isinstance(node, ast.Import | ast.ImportFrom))
    assert ast.unparse(first) == "import protocol.telemetry"


@pytest.mark.parametrize("path", ["client/run.py", "simulation/run.py"])
def test_a_script_is_the_same_as_its_subcommand(path: str) -> None:
    done = subprocess.run(
        [sys.executable, path, "--help"],
        capture_output=True, encoding="utf-8", check=True, cwd=ROOT, timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"},
    )  # fmt: skip
    name = {"client/run.py": "asdnet-site", "simulation/run.py": "asdnet-sim"}[path]
    same = CliRunner().invoke(GROUPS[name], ["run", "--help"], terminal_width=78)
    assert done.stdout == same.stdout
    assert done.stdout.startswith(f"Usage: {name} run [OPTIONS]")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained_in_one_voice(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for param in command.params:
        if param.name == "help":
            continue
        text = str(getattr(param, "help", None) or "")
        assert text, f"{name}: {param.name}"
        assert text.endswith("."), f"{name}: {param.name}: {text}"


def words(name: str, width: int) -> list[str]:
    group, _, subcommand = name.partition(" ")
    done = CliRunner().invoke(
        GROUPS[group],
        [*subcommand.split(), "--help"],
        terminal_width=width,
        max_content_width=width,
    )
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines())) <= max(width, 78)
    return done.stdout.split()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_word_is_broken(name: str, width: int) -> None:
    assert words(name, width) == words(name, 1000)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cheque"], "No such command 'cheque'; see asdnet-site --help"),
        (["check"], "--site: is missing; see asdnet-site check --help"),
        (["score", "a"], "REFERENCE: is missing; see asdnet-site score --help"),
        (["check", "--site", "A", "--workers", "0"], "--workers: 0 is not in the range x>=1; see"),
        (["check", "--ste", "A"], "No such option '--ste'"),
        (["check", "--site", "Q", "--configs", "/nowhere"], "/nowhere/Q.yaml: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], line: str) -> None:
    done = CliRunner().invoke(client.cli.app, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1


def test_the_version() -> None:
    done = CliRunner().invoke(simulation.cli.app, ["--version"])
    name, version = done.stdout.split()
    assert name == "asdnet-sim"
    assert version[0].isdigit()


def test_pooled_does_not_go_with_hidden_organs() -> None:
    done = CliRunner().invoke(simulation.cli.app, ["run", "--pooled", "--hide", "A=rectum"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --pooled: does not go with --hide")
    assert done.stderr.count("\n") == 1


def test_the_old_spelling_of_an_option() -> None:
    done = CliRunner().invoke(simulation.cli.app, ["tables", "--plan", "--ways", "nowhere"])
    assert done.exit_code == 2
    known = "federated, pooled, pooled-equal-steps, local"
    assert f"--settings: must be of {known}, not 'nowhere'" in done.stderr
    assert "--ways" not in CliRunner().invoke(simulation.cli.app, ["tables", "--help"]).stdout


@dataclass(frozen=True, kw_only=True)
class Wishes:
    number: Annotated[int, typer.Option(min=1, help="A number.")]
    names: Annotated[list[str] | None, typer.Option(help="Names.")] = None


def show(given: Wishes) -> None:
    """Show what came."""
    typer.echo(repr(given))


def interrupted() -> None:
    """As Ctrl-C does it."""
    raise KeyboardInterrupt


def lost(kind: str) -> None:
    """Raise it."""
    with user_errors(KeyError):
        raise {"file": FileNotFoundError(2, "No such file", "x"), "key": KeyError("a\nb")}[kind]


@pytest.fixture
def group() -> CommandGroup:
    commands = {name: (f"{__name__}:{name}", "") for name in ("show", "interrupted", "lost")}
    return CommandGroup("them", "Them.", commands)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this())


def _this() -> object:
    from types import ModuleType

    module = ModuleType(__name__)
    vars(module).update(globals())
    return module


def test_options_arrive_as_one_object(group: CommandGroup) -> None:
    done = CliRunner().invoke(group, ["show", "--number", "3", "--names", "a", "--names", "b"])
    assert done.stdout == "Wishes(number=3, names=['a', 'b'])\n"
    assert "error: --number: is missing" in CliRunner().invoke(group, ["show"]).stderr


def test_an_interruption_is_128_and_the_signal(group: CommandGroup) -> None:
    assert CliRunner().invoke(group, ["interrupted"]).exit_code == 130


def test_what_a_user_can_mend_is_reported(group: CommandGroup) -> None:
    done = CliRunner().invoke(group, ["lost", "file"])
    assert (done.exit_code, done.stderr) == (2, "error: x: no such file\n")
