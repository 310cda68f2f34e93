"""The study files of the documents: they load, their networks are built, and a step is taken."""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from client.training.rehearsal import made_step
from protocol.config.idle import idle_settings
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.config.study_file import read_study

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "docs" / "examples").glob("*.yaml"))


def study(name: str) -> StudyProtocol:
    return read_study(ROOT / "docs" / "examples" / name)


def test_there_is_one_of_each_kind() -> None:
    assert [file.name for file in FILES] == ["anisotropic.yaml", "isotropic.yaml"]
    coarse, fine = study("anisotropic.yaml"), study("isotropic.yaml")
    assert max(fine.spacing_mm) < 1.5 * min(fine.spacing_mm)
    assert max(coarse.spacing_mm) > 3 * min(coarse.spacing_mm)
    assert coarse.network.strides and (2, 2, 1) in coarse.network.strides
    assert coarse.network.kernels and (3, 3, 1) in coarse.network.kernels


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.usefixtures("one_thread")
def test_an_example_trains_a_step(file: Path, tmp_path: Path) -> None:
    protocol = study(file.name)
    site = SiteConfig(
        site="A", data=tmp_path, cache=tmp_path, state=tmp_path, device="cpu", threads=1
    )
    step = made_step(site, protocol, torch.device("cpu"))
    record = step()
    losses: Mapping[str, Any] = record.losses  # type: ignore[attr-defined]
    # The hearts' study has no unlabelled scans: the plan trains no confidence network.
    of_confidence = {"region", "confidence"} if protocol.method.trains_confidence else set()
    assert {"total", "dice", *of_confidence} <= set(losses)
    assert protocol.method.trains_confidence == (file.stem == "isotropic")
    assert all(math.isfinite(float(value)) for value in losses.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_value_of_an_example_stands_below_its_reason(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= 100
    first = lines.index("base: planned")
    for above, line in zip(lines[first:], lines[first + 1 :], strict=False):
        if not line.strip().startswith("#") and not line.endswith(":") and "name:" not in line:
            assert above.strip().startswith("#"), line


def test_the_reference_shows_the_examples_whole() -> None:
    spec = importlib.util.spec_from_file_location("hook", ROOT / "docs" / "hooks" / "reference.py")
    assert spec is not None and spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    page = hook.study_file()
    for file in FILES:
        assert f"```yaml\n{file.read_text(encoding='utf-8')}```\n" in page


def test_the_study_of_few_labels_in_the_guide_is_one(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "guides" / "researcher.md").read_text(encoding="utf-8")
    _, _, after = guide.partition("### Few labels, many unlabelled scans")
    block = after.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
    protocol = read_study(tmp_path / "study.yaml")
    assert protocol.method.name == "region-teacher" and protocol.method.trains_confidence
    assert list(idle_settings(protocol)) == []
