"""The library's wheel, installed where nothing of the checkout is, segments a scan by itself."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from asdnet_models import load_model
from asdnet_models.networks import build_confidence, build_segmenter
from protocol.config.study import StudyProtocol
from protocol.model_io import save_model

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "asdnet_models"
PROJECT = tomllib.loads((LIBRARY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SEGMENT = """
import json, sys
from importlib.util import find_spec
import SimpleITK as sitk
import asdnet_models
from asdnet_models import SVNet, load_model, losses

rooms = ("client", "server", "protocol", "simulation", "reporting", "flower_compat")
found = [room for room in rooms if find_spec(room)]
result = load_model(sys.argv[1], device="cpu").predict(sitk.ReadImage(sys.argv[2]))
sitk.WriteImage(result.label, "label.nii.gz")
sitk.WriteImage(result.confidence, "confidence.nii.gz")
print(json.dumps({"file": asdnet_models.__file__, "rooms": found}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """A command that knows nothing of this checkout."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    source = shutil.copytree(LIBRARY, folder / "asdnet_models", ignore=skipped)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--quiet", "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_its_types_and_its_licence(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in LIBRARY.rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert {name for name in names if name.endswith(".py")} == modules
    assert "asdnet_models/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in text
    assert "load_model" in text  # the README


def test_the_wheel_needs_what_the_library_imports_and_no_more() -> None:
    imported = set()
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    owners = packages_distributions()
    foreign = imported - sys.stdlib_module_names - {"asdnet_models"}
    needed = {owners[name][0].lower() for name in foreign}
    declared = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in PROJECT["dependencies"]}
    assert declared == needed


def test_the_wheel_and_the_application_are_of_one_version() -> None:
    application = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert PROJECT["version"] == application["version"]
    assert "Private :: Do Not Upload" in application["classifiers"]


def test_a_fresh_environment_segments_a_scan(
    wheel: Path, tmp_path: Path, make_protocol: Callable[..., StudyProtocol]
) -> None:
    study = make_protocol()
    weights = [build(study).state_dict() for build in (build_segmenter, build_confidence)]
    save_model(tmp_path / "model", study, *weights, {"round": 1})
    scan = sitk.GetImageFromArray(np.random.default_rng(1).normal(size=(9, 20, 17)))
    scan.SetSpacing((2.5, 2.0, 3.0))
    sitk.WriteImage(sitk.Cast(scan, sitk.sitkFloat32), tmp_path / "scan.nii.gz")

    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index")
    run(*pip, "--quiet", wheel, cwd=tmp_path)
    # The dependencies are this environment's, but not its editable install of the checkout: a
    # folder that a .pth file names has no .pth files of its own.
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    out = run(python, "-I", "-c", SEGMENT, "model", "scan.nii.gz", cwd=tmp_path)
    said = json.loads(out.splitlines()[-1])
    assert Path(said["file"]).is_relative_to(packages)
    assert said["rooms"] == []
    here = load_model(tmp_path / "model", device="cpu").predict(
        sitk.ReadImage(tmp_path / "scan.nii.gz")
    )
    for name, image in (("label", here.label), ("confidence", here.confidence)):
        there = sitk.ReadImage(tmp_path / f"{name}.nii.gz")
        assert there.GetSize() == scan.GetSize()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(there), sitk.GetArrayFromImage(image))
