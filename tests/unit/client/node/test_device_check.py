"""What a training step has taken is remembered, as long as nothing of it can have changed."""

import json
import stat
from collections.abc import Callable
from typing import Any

import pytest

import client.node.device_check
import client.training.rehearsal
from client.node.checks import Result
from client.node.device_check import check_device
from client.node.training_rehearsal import Step
from protocol.config.site import SiteConfig
from protocol.config.study import StudyProtocol

MakeSite = Callable[..., SiteConfig]
MakeProtocol = Callable[..., StudyProtocol]
STEP = Step(device="cpu", seconds=1.5, peak_bytes=900, available_bytes=10_000)


class Machine:
    """Steps that are not taken, on a machine whose free memory a test decides."""

    def __init__(self) -> None:
        self.step: Step | Result = STEP
        self.tried: list[str] = []
        self.available: int | None = 20_000
        self.identity = ["cpu", "a processor"]

    def rehearse(self, config: SiteConfig, study: StudyProtocol) -> Step | Result:
        self.tried.append(study.name)
        return self.step


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(client.node.device_check, "rehearse_training", machine.rehearse)
    monkeypatch.setattr(client.training.rehearsal, "device_bytes", lambda _: machine.available)
    monkeypatch.setattr(client.training.rehearsal, "device_identity", lambda _: machine.identity)
    return machine


def look(config: SiteConfig, study: StudyProtocol, *, anew: bool = False) -> Result:
    return check_device(config, study, " (note)", anew=anew)


@pytest.fixture
def config(make_site: MakeSite) -> SiteConfig:
    config = make_site(labelled=1).model_copy(update={"device": "cpu"})
    config.state.mkdir(parents=True, exist_ok=True)
    return config


def test_a_second_look_takes_no_step_and_says_so(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol
) -> None:
    study = make_protocol()
    assert look(config, study) == (
        "ok",
        "cpu: one training step takes 1.5 s and 900 bytes of 10.0 kB (note)",
        "",
    )
    status, finding, _ = look(config, study)
    assert status == "ok"
    # The memory is that of now.
    assert finding.startswith(
        "cpu: one training step takes 1.5 s and 900 bytes of 20.0 kB; measured 20"
    )
    assert finding.endswith(", --anew measures it again (note)")
    assert machine.tried == ["tiny"]
    assert "measured" not in look(config, study, anew=True)[1]
    assert machine.tried == ["tiny", "tiny"]
    file = config.state / "device_steps.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(json.loads(file.read_text())["steps"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"organs": {"ball": 1, "rod": 2, "cone": 3}},
        {"patch_voxels": (24, 16, 16)},
        {"network": {"width": 6}},
        {"confidence": {"width": 6}},
        {"training": {"batch_size": 2}},
        {"method": {"name": "semi-fcn"}},
    ],
)
def test_another_step_is_taken(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol, change: dict[str, Any]
) -> None:
    look(config, make_protocol())
    look(config, make_protocol(**change))
    assert len(machine.tried) == 2
    look(config, make_protocol())  # both are remembered
    look(config, make_protocol(**change))
    assert len(machine.tried) == 2


def test_what_no_step_rests_on_is_no_reason_for_one(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol
) -> None:
    look(config, make_protocol())
    look(config, make_protocol(name="other", seed=99, evaluation={"every_rounds": 7}))
    assert len(machine.tried) == 1


@pytest.mark.parametrize("change", [{"threads": 1}, {"accumulate": 2}, {"compile": True}])
def test_another_site_file_is_another_step(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol, change: dict[str, Any]
) -> None:
    look(config, make_protocol())
    look(config.model_copy(update=change), make_protocol())
    assert len(machine.tried) == 2


def test_another_machine_or_library_is_another_step(
    config: SiteConfig,
    machine: Machine,
    make_protocol: MakeProtocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look(config, make_protocol())
    machine.identity = ["cpu", "another processor"]
    look(config, make_protocol())
    assert len(machine.tried) == 2
    monkeypatch.setattr("torch.__version__", "99.1")
    look(config, make_protocol())
    assert len(machine.tried) == 3


def test_memory_that_others_have_taken_since_is_a_warning(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol
) -> None:
    look(config, make_protocol())
    machine.available = 999
    status, finding, hint = look(config, make_protocol())
    assert (status, len(machine.tried)) == ("warning", 1)
    assert "900 bytes of 999 bytes; measured" in finding
    assert hint == "end other programs on this machine, or use another `device`"


@pytest.mark.parametrize(
    ("peak", "status", "told"),
    [
        (100, "ok", "100 bytes of 10.0 kB"),
        (9000, "ok", "9.0 kB of 10.0 kB"),
        (9001, "warning", "9.0 kB of 10.0 kB"),
        (None, "ok", "its memory is not known on this system"),
    ],
)
def test_the_memory_of_a_step(
    config: SiteConfig,
    machine: Machine,
    make_protocol: MakeProtocol,
    peak: int | None,
    status: str,
    told: str,
) -> None:
    machine.step = Step(device="cpu", seconds=1.0, peak_bytes=peak, available_bytes=10_000)
    found = look(config, make_protocol())
    assert found[0] == status
    assert told in found[1]


def test_a_failure_is_tried_again(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol
) -> None:
    machine.step = "failed", "the system killed a training step", "inform the centre"
    for count in (1, 2):
        assert look(config, make_protocol())[0] == "failed"
        assert len(machine.tried) == count


def test_a_device_that_is_gone_is_not_recalled(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol
) -> None:
    look(config, make_protocol())
    look(config.model_copy(update={"device": "cuda:77"}), make_protocol())
    assert len(machine.tried) == 2


@pytest.mark.parametrize("content", [b"", b"{}x", b'{"steps": [{"key": 1}]}'])
def test_a_file_that_cannot_be_read_is_written_anew(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol, content: bytes
) -> None:
    (config.state / "device_steps.json").write_bytes(content)
    look(config, make_protocol())
    look(config, make_protocol())
    assert len(machine.tried) == 1


def test_only_the_last_ones_are_kept(
    config: SiteConfig, machine: Machine, make_protocol: MakeProtocol
) -> None:
    for width in range(2, 12):
        look(config, make_protocol(network={"width": width}))
    kept = json.loads((config.state / "device_steps.json").read_text())["steps"]
    assert len(kept) == 8
    look(config, make_protocol(network={"width": 2}))
    assert len(machine.tried) == 11


def test_this_machine_has_an_identity() -> None:
    import torch

    one, two = (client.training.rehearsal.device_identity(torch.device("cpu")) for _ in range(2))
    assert one == two
    assert one[0] == "cpu"
    assert all(isinstance(fact, str) for fact in one)
