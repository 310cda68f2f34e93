"""What each role's environment holds: the versions locked, and what its code imports."""

import ast
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rooms import ROOMS, ROOT

ROLES = ("site", "centre", "simulation", "dev")
# The room that a role runs; what this imports, directly or not, is the role's code.
ROOM_OF = {"site": "client", "centre": "server", "simulation": "simulation"}
FORBIDDEN = {
    "site": {"mlflow", "mlflow-skinny", "pandas", "ray", "scikit-learn", "statsmodels"},
    "centre": {"highdicom", "monai", "pydicom", "ray", "simpleitk", "statsmodels"},
}
# Not locked, because its build depends on the machine.
UNLOCKED = "torch"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@cache
def requirements(role: str) -> tuple[Requirement, ...]:
    """What pyproject.toml asks for, for one role; its extras of our own resolved."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for text in PROJECT["optional-dependencies"][role]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found += [inner for extra in requirement.extras for inner in requirements(extra)]
        else:
            found.append(requirement)
    return tuple(found)


@cache
def lock(role: str) -> dict[str, list[str]]:
    """Locked versions by package: more than one where the platform decides."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "requirements" / f"{role}.lock").read_text(encoding="utf-8")
    for entry in text.replace("\\\n", " ").splitlines():
        if entry.strip() and not entry.lstrip().startswith("#"):
            requirement, *hashes = entry.split("--hash=")
            name, _, version = requirement.partition(";")[0].partition("==")
            assert version and hashes, f"{role}: {name} has no version or no hash"
            assert all(digest.startswith("sha256:") for digest in hashes)
            found.setdefault(canonicalize_name(name.strip()), []).append(version.strip())
    return found


def module_path(name: str) -> Path | None:
    """The file of a module of ours."""
    path = ROOT.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


class _WithoutTypes(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports, late ones included; those for type checkers are not."""
    for node in ast.walk(_WithoutTypes().visit(ast.parse(file.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def reached(room: str) -> tuple[dict[str, str], frozenset[str]]:
    """Packages that the room's code imports, each with a file that does, and the files read."""
    packages: dict[str, str] = {}
    waiting = sorted((ROOT / room).rglob("*.py"))
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        for name in imported(file):
            parts = name.split(".")
            if parts[0] not in ROOMS:
                packages.setdefault(parts[0], file.relative_to(ROOT).as_posix())
                continue
            for end in range(1, len(parts) + 1):
                inner = module_path(".".join(parts[:end]))
                if inner is not None and inner not in seen:
                    seen.add(inner)
                    waiting.append(inner)
    files = frozenset(file.relative_to(ROOT).as_posix() for file in seen)
    return {n: f for n, f in packages.items() if n not in sys.stdlib_module_names}, files


installed_modules = cache(packages_distributions)


def distributions(module: str) -> set[str]:
    return {canonicalize_name(name) for name in installed_modules().get(module, [module])}


def test_a_room_leads_to_what_it_imports() -> None:
    packages, files = reached("client")
    assert "SimpleITK" in packages and "flwr" in packages
    assert "protocol/config/study.py" in files and "server/app.py" not in files


@pytest.mark.parametrize("role", ROOM_OF)
def test_a_role_asks_for_what_its_code_imports(role: str) -> None:
    asked = {canonicalize_name(requirement.name) for requirement in requirements(role)}
    # Ray comes with Flower's own extra, and its version is Flower's to say.
    asked |= {"ray"} if "flwr[simulation]" in map(str, requirements(role)) else set()
    packages, _ = reached(ROOM_OF[role])
    missing = {n: f for n, f in packages.items() if not distributions(n) & asked}
    assert missing == {}


@pytest.mark.parametrize("role", ROLES)
def test_the_lock_fits_the_project(role: str) -> None:
    for requirement in requirements(role):
        if requirement.name == UNLOCKED:
            continue
        versions = lock(role).get(canonicalize_name(requirement.name), [])
        assert versions, f"requirements/{role}.lock lacks {requirement}: make lock"
        assert all(version in requirement.specifier for version in versions), requirement


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_is_part_of_the_lock_of_all(role: str) -> None:
    everything = lock("dev")
    assert {name: everything.get(name) for name in lock(role)} == lock(role)


def test_the_library_allows_what_is_locked() -> None:
    text = (ROOT / "asdnet_models" / "pyproject.toml").read_text(encoding="utf-8")
    for requirement in map(Requirement, tomllib.loads(text)["project"]["dependencies"]):
        [here] = [own for own in requirements("site") if own.name == requirement.name]
        pinned = [spec.version for spec in here.specifier if here.name == UNLOCKED]
        for version in pinned or lock("site")[canonicalize_name(requirement.name)]:
            assert version in requirement.specifier, requirement


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_leaves_out_torch_alone(role: str) -> None:
    text = (ROOT / "requirements" / "torch.in").read_text(encoding="utf-8")
    beside = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    for requirement in beside:
        [version] = lock(role)[canonicalize_name(requirement.name)]
        assert version in requirement.specifier
    chosen_by_machine = {n for n in lock(role) if n.startswith((UNLOCKED, "nvidia", "triton"))}
    assert chosen_by_machine == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_lock_names_no_index_and_no_path(role: str) -> None:
    text = (ROOT / "requirements" / f"{role}.lock").read_text(encoding="utf-8")
    assert "://" not in text and "--index" not in text and "--find-links" not in text


@pytest.mark.parametrize("role", FORBIDDEN)
def test_a_role_is_spared_what_it_does_not_need(role: str) -> None:
    assert FORBIDDEN[role] & lock(role).keys() == set()


# Imports every module that the role's code reaches, in a process that finds no other package.
_IMPORT_ALL = """
import importlib, json, sys
from importlib.abc import MetaPathFinder

modules, missing = json.loads(sys.argv[1])

class Spared(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Spared())
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.parametrize("role", ("site", "centre"))
def test_every_module_is_imported_with_the_packages_of_the_role(role: str) -> None:
    _, files = reached(ROOM_OF[role])
    modules = [
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for file in sorted(files)
    ]
    here = {*lock(role), UNLOCKED, canonicalize_name(PROJECT["name"])}
    missing = [
        module
        for module in installed_modules()
        if module not in ROOMS and not distributions(module) & here
    ]
    assert missing, "nothing is left out: this environment is the role's own"
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, json.dumps([modules, missing])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
