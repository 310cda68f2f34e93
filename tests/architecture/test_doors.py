"""The doors between the rooms: who may import whom, read from the source."""

import ast
from collections.abc import Iterator
from functools import cache

import pytest
from rooms import ROOMS, ROOT

# Nothing of the key may import anything of the value.
CLOSED = {
    "protocol": {"client", "server", "simulation", "reporting", "monai", "mlflow", "SimpleITK"},
    "asdnet_models": {*ROOMS, "flwr", "mlflow", "ray"} - {"asdnet_models"},
    "flower_compat": {*ROOMS, "mlflow", "monai", "SimpleITK"} - {"flower_compat"},
    "reporting": {"client", "server", "simulation", "flwr", "mlflow", "monai", "torch"},
    "client": {"server", "simulation", "mlflow", "ray"},
    "server": {"client", "simulation", "monai", "SimpleITK"},
}
# The value is the complete list of files that may import the key.
ALLOWED = {
    "mlflow": {
        "server/monitoring/data_inputs.py",  # data sets, which are entities of MLflow's
        "server/monitoring/mlflow_client.py",  # how its client behaves, for the others
        "server/monitoring/study_files.py",  # models and its registry, imported at a study's end
        "server/monitoring/tracking.py",
    },
    "flwr": {
        "client/app.py",
        "client/node/answers.py",
        "client/node/records.py",
        "client/node/executor.py",
        "client/node/guard/allowed.py",
        "client/node/egress.py",
        "client/node/guard/form.py",
        "client/node/guard/guard.py",
        "client/node/worker.py",
        "protocol/wire/description.py",
        "protocol/wire/fingerprint.py",
        "protocol/wire/messages.py",
        "protocol/wire/metrics.py",
        "protocol/wire/proofs.py",
        "protocol/wire/weights.py",
        "protocol/wire/compression.py",
        "server/app.py",
        "server/rounds/acceptance.py",
        "server/rounds/channel.py",
        "server/rounds/fingerprints.py",
        "flower_compat/grid.py",
        "server/rounds/pending.py",
        "server/rounds/roster.py",
        "server/rounds/loop.py",
        "server/rounds/membership.py",
        "server/rounds/round.py",
        "server/rounds/statements.py",
        "simulation/engine.py",
        "flower_compat/bundle.py",
        "flower_compat/chunks.py",
        "flower_compat/control.py",
        "flower_compat/error_codes.py",
        "flower_compat/message_bytes.py",
        "flower_compat/middleware.py",
        "flower_compat/inflating.py",
        "flower_compat/owner.py",
        "flower_compat/pacing.py",
        "flower_compat/polling.py",
        "flower_compat/runtime.py",
        "flower_compat/superlink.py",
        "flower_compat/supernode.py",
        "flower_compat/task_identity.py",
    },
    "starlette": {
        "flower_compat/middleware.py",
        "flower_compat/superlink.py",
        "server/admin/connections.py",
        "server/admin/doorbell.py",
        "server/admin/gate.py",
        "server/commands/superlink.py",
        "server/service/page.py",
    },
    "prometheus_client": {
        "client/node/site_metrics.py",
        "server/service/metrics.py",
        "server/service/page.py",
    },
    "zstandard": {"protocol/wire/compression.py"},
}


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, late and conditional ones included.

    A relative import has a leading dot, and so fits no rule: none is allowed.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in ("import_module", "__import__") and node.args:
                yield node.lineno, ast.unparse(node.args[0]).strip("'\"")


@cache
def doors() -> dict[str, list[tuple[int, str]]]:
    """Imports of every file of the rooms, by path from the root."""
    return {
        path.relative_to(ROOT).as_posix(): list(imported(path.read_text(encoding="utf-8")))
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    }


def package(name: str) -> str:
    return name.partition(".")[0]


def room(file: str) -> str:
    return file.partition("/")[0]


def test_every_form_of_import_is_seen() -> None:
    source = (
        "import a.b as c, d\n"
        "from e.f import g\n"
        "def late():\n"
        "    from h import i\n"
        "    importlib.import_module('j.k')\n"
        "if TYPE_CHECKING:\n"
        "    import l\n"
        "from . import m\n"
    )
    assert {package(name) for _, name in imported(source)} == {"a", "d", "e", "h", "j", "l", ""}
    assert (8, ".") in imported(source)


def test_every_room_is_looked_at() -> None:
    assert {room(file) for file, names in doors().items() if names} == set(ROOMS)


def test_imports_are_absolute() -> None:
    found = [f"{f}:{line}" for f, names in doors().items() for line, n in names if n[0] == "."]
    assert found == []


@pytest.mark.parametrize("closed", CLOSED)
def test_a_room_keeps_its_doors_shut(closed: str) -> None:
    found = [
        f"{file}:{line} imports {name}"
        for file, names in doors().items()
        for line, name in names
        if room(file) == closed and package(name) in CLOSED[closed]
    ]
    assert found == []


@pytest.mark.parametrize("library", ALLOWED)
def test_a_library_has_few_importers(library: str) -> None:
    importers = {
        file for file, names in doors().items() if library in {package(n) for _, n in names}
    }
    # Equal, not within: a file that imports it no longer is no reason to allow it again.
    assert importers == ALLOWED[library]


def test_private_names_of_flower_are_used_in_one_room() -> None:
    public = {"flwr.app", "flwr.clientapp", "flwr.clientapp.typing", "flwr.serverapp"}
    public |= {"flwr.simulation"}
    found = [
        f"{file}:{line} imports {name}"
        for file, names in doors().items()
        for line, name in names
        if package(name) == "flwr" and name not in public and room(file) != "flower_compat"
    ]
    assert found == []


def test_only_the_simulation_knows_both_sides() -> None:
    both = {
        room(file)
        for file, names in doors().items()
        if {"client", "server"} <= {package(name) for _, name in names} | {room(file)}
    }
    assert both == {"simulation"}


def test_a_worker_imports_every_room_from_the_approved_code_alone() -> None:
    from client.node import code_importer

    assert set(ROOMS) == code_importer.ROOMS
