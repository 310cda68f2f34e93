"""What `import asdnet_models` gives, and what it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asdnet_models

HEAVY = {"torch", "monai", "SimpleITK", "pydantic", "numpy"}


def loaded(statement: str) -> set[str]:
    """The heavy libraries that a fresh process has loaded after the statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import asdnet_models", set()),
        ("import asdnet_models; dir(asdnet_models)", set()),
        ("from asdnet_models.config import ModelConfig", {"pydantic"}),
        ("from asdnet_models.sums import ScoreSum", set()),
        ("from asdnet_models.reliability import Reliability", set()),
        # What the centre takes, which has neither MONAI nor SimpleITK.
        (
            "from asdnet_models import SVNet, build_segmenter, losses",
            {"torch", "numpy", "pydantic"},
        ),
        ("from asdnet_models.model_files import load_tensors", {"torch", "numpy"}),
    ],
)
def test_a_name_loads_what_it_needs_and_no_more(statement: str, expected: set[str]) -> None:
    assert loaded(statement) == expected


@pytest.mark.parametrize("name", asdnet_models.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(asdnet_models, name).__doc__
    assert name in dir(asdnet_models)


def test_a_checker_of_types_sees_the_names_that_are_given() -> None:
    tree = ast.parse(Path(asdnet_models.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: f"{node.module}" for node in imports for alias in node.names}
    assert sorted(seen) == sorted(asdnet_models.__all__)
    for name, module in asdnet_models._MODULES.items():
        assert seen[name] == f"asdnet_models.{module}"


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'asdnet_models' has no attribute 'SVNet2'"):
        asdnet_models.SVNet2  # noqa: B018
