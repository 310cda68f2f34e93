"""What several rooms' tests share: a tiny study, tiny hospitals, Flower's task identity."""

import locale
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import settings
from numpy.typing import NDArray

from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol
from protocol.telemetry import switch_off

switch_off()

# The same examples on every run and machine; what a run with new ones finds becomes an @example:
# make test ARGS="--hypothesis-profile=explore tests/property"
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None, database=None, print_blob=True)
settings.load_profile("same")

EDGE = 24
ALL_PARTS = {"labelled": 2, "unlabelled": 1, "validation": 1, "test": 1}
FOLDERS = {
    "labelled": ("imagesTr", "labelsTr"),
    "unlabelled": ("imagesUn", None),
    "validation": ("imagesVal", "labelsVal"),
    "test": ("imagesTs", "labelsTs"),
}

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]


@pytest.fixture(autouse=True, scope="session")
def no_log_at_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a test makes go wrong is not logged below the home of whoever runs it."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """ITK's DICOM writer, which only tests use, sets the process's locale to C."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks of two channels are only slowed down by more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_protocol(one_thread: None) -> MakeProtocol:
    """A study small enough for one test; sections are given as `training={...}`.

    Label values 2 and 5 become channels 1 and 2, so that mixing the two up shows.
    """

    def make(**changes: Any) -> StudyProtocol:
        content = StudyProtocol().model_dump()
        content |= {
            "name": "tiny",
            "seed": 4,
            "organs": {"ball": 2, "rod": 5},
            "spacing_mm": (2.0, 2.0, 2.0),
            "patch_voxels": (16, 16, 16),
        }
        content["network"] |= {"width": 2, "kernel": 3}
        content["confidence"] |= {"width": 2}
        content["method"] |= {"class_weight": "uniform", "sample_attention": "off"}
        content["training"] |= {"rounds": 2, "local_steps": 2, "batch_size": 1}
        content["training"]["ramp"] = {
            "adversarial_start": 0.0,
            "region_start": 0.0,
            "length": 0.0,
        }
        # Sites that are made in memory take steps that no optimiser would.
        content["aggregation"] |= {"max_update": 1e4, "round_timeout_s": 5.0, "join_timeout_s": 0.3}
        content["evaluation"] |= {"every_rounds": 1, "overlap": 0.25}
        for section, value in changes.items():
            if isinstance(value, dict) and section != "organs":
                content[section] |= value
            else:
                content[section] = value
        return StudyProtocol.model_validate(content)

    return make


def scan_arrays(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A body in air with a bright ball (2) and a dark rod (5); arrays (Z, Y, X)."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[:EDGE, :EDGE, :EDGE].astype(float)
    cx, cy, cz = 11.5 + rng.uniform(-2, 2, 3)
    body = (x - 11.5) ** 2 / 121 + (y - 11.5) ** 2 / 121 < 1
    ball = (x - cx) ** 2 + (y - cy + 3) ** 2 + (z - cz) ** 2 < 16
    rod = ((x - cx) ** 2 + (y - cy - 5) ** 2 < 6) & (np.abs(z - cz) < 8)
    signal = 400.0 * body + 300.0 * ball - 250.0 * rod
    image = np.abs(signal + rng.normal(0, 12, signal.shape)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[ball], label[rod] = 2, 5
    return image, label


def _save(array: NDArray[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetOrigin((-23.0, -21.0, 5.0))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def make_site(tmp_path: Path) -> MakeSite:
    """A hospital's folder and its configuration; every scan differs."""

    def make(site: str = "A", *, threshold: int = 1, **parts: int) -> SiteConfig:
        folder = tmp_path / f"hospital-{site}"
        seed = 1000 * ord(site[0])
        for part, count in (parts or ALL_PARTS).items():
            images, labels = FOLDERS[part]
            for number in range(count):
                seed += 1
                name = f"patient-{part}-{number}.nii.gz"
                image, label = scan_arrays(seed)
                _save(image, folder / images / name)
                if labels:
                    _save(label, folder / labels / name)
        return SiteConfig(
            site=site,
            data=folder,
            cache=folder / "cache",
            state=folder / "state",
            device="cpu",
            min_cases_reported=threshold,
        )

    return make


@pytest.fixture
def flower_task() -> Iterator[None]:
    """Flower makes instruction messages within a run only; this is one."""
    before = TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 3, 2, 1
    yield
    TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before
