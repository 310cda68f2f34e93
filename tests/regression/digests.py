"""The net under a refactoring: three seeded jobs, and a digest of every weight and number of each.

    python tests/regression/digests.py --out before.json     # at one commit
    python tests/regression/digests.py --against before.json # at a later one, on the same machine

The jobs are those of a user: `make smoke`, an experiment of several rows in all settings, and a
deployment of two sites.  A change that should move no number leaves every digest as it is.  Other
processors and other builds of torch round differently: digests compare within one machine alone.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/deployment"), str(ROOT / "tests/end_to_end")]

import harness  # noqa: E402
from test_study import write_scan  # noqa: E402

from protocol.config.presets import preset  # noqa: E402

JOBS = ("smoke", "experiment", "deployment")
ROWS = "SVNet,UNet,ASDNet,semiFCN,MALF"
# Keys whose values are of a run's time or place, not of its result.
PASSING = {
    "seconds", "started", "finished", "finished_at", "versions", "command", "out", "data", "sites",
    "wall_s", "time",
}  # fmt: skip


def digest_of_weights(path: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, not over the file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def without_times(value: Any, passing: frozenset[str]) -> Any:
    """The content without what differs between two equal runs."""
    if isinstance(value, Mapping):
        return {
            key: without_times(item, passing)
            for key, item in value.items()
            if key not in passing and not key.endswith(("_seconds", "_s"))
        }
    if isinstance(value, list):
        return [without_times(item, passing) for item in value]
    return value


def digest_of_json(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    passing = frozenset(PASSING - ({"sites"} if path.name == "result.json" else set()))
    text = json.dumps(without_times(content, passing), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_table(path: Path) -> str:
    """Of a CSV file without columns of times."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [
            {key: value for key, value in row.items() if "seconds" not in key}
            for row in csv.DictReader(file)
        ]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Every model, result and table below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(("cache/", "sites/", "report/")) or "/state/" in name:
            continue
        if path.suffix == ".safetensors":
            found[name] = digest_of_weights(path)
        elif path.name in ("result.json", "cases.csv", "confidence.csv", "rounds.csv"):
            found[name] = (digest_of_json if path.suffix == ".json" else digest_of_table)(path)
    return found


def simulation(script: list[str], *arguments: object) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    command = [sys.executable, *script, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def smoke(folder: Path) -> None:
    simulation(
        ["simulation/cli.py", "run"],
        "--preset", "smoke", "--device", "cpu", "--cache", folder / "cache",
        "--out", folder / "result",
    )  # fmt: skip


def experiment(folder: Path) -> None:
    for number in range(8):
        write_scan(folder / "cache/data", f"case_{number}", number, "labelsTr")
    for number in range(2):
        write_scan(folder / "cache/data", f"un_{number}", 101 + number, "labelsUn")
    content = preset("smoke").model_dump(mode="json")
    content |= {"spacing_mm": [3, 3, 3], "patch_voxels": [16, 16, 16], "name": "tiny"}
    content["network"]["width"] = content["confidence"]["width"] = 2
    content["training"] |= {"rounds": 3, "local_steps": 2, "batch_size": 1, "views": "weak"}
    content["training"]["ramp"] = {"adversarial_start": 0, "region_start": 0, "length": 0}
    content["evaluation"]["every_rounds"] = 1
    (folder / "cache/study.yaml").write_text(json.dumps(content), encoding="utf-8")
    simulation(
        ["simulation/cli.py", "tables"],
        "--cohort", folder / "cache/data", "--organs", "ball=1,rod=2", "--labelled", 8,
        "--unlabelled", 2, "--sites", 2, "--study", folder / "cache/study.yaml", "--rows", ROWS,
        "--settings-rows", "ASDNet,semiFCN", "--folds", 1, "--seeds", 1, "--workers", 1,
        "--cache", folder / "cache/scans", "--device", "cpu", "--out", folder / "result",
    )  # fmt: skip


def deployment(folder: Path) -> None:
    study = harness.tiny_study(rounds=4)
    with harness.federation(folder / "cache", study, sites="AB") as federation:
        federation.start_superlink()
        federation.start_sites()
        federation.start_study("four")
        if federation.finish("four") != 0:
            raise RuntimeError(federation.tails())
        run = federation.centre / "runs/four"
        for kind in ("best", "final"):
            target = folder / "result" / kind / "model.safetensors"
            target.parent.mkdir(parents=True)
            target.write_bytes((run / "model" / kind / "model.safetensors").read_bytes())


def machine() -> dict[str, str]:
    """What the last bits depend on."""
    return {
        "processor": torch.backends.cpu.get_cpu_capability() + " " + platform.machine(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"of {','.join(JOBS)}")
    parser.add_argument("--out", type=Path, help="write the digests to this file")
    parser.add_argument("--against", type=Path, help="compare them with those of this file")
    chosen = parser.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    for job in chosen.jobs.split(","):
        with tempfile.TemporaryDirectory(prefix=f"digests-{job}-") as folder:
            globals()[job](Path(folder))
            found[job] = digests(Path(folder) / "result")
        print(f"{job}: {len(found[job])} digests", flush=True)
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if not chosen.against:
        return 0
    before = json.loads(chosen.against.read_text(encoding="utf-8"))
    if before["machine"] != found["machine"]:
        sys.exit(f"error: digests are of {before['machine']}, this machine is {found['machine']}")
    moved = [
        f"{job}/{name}"
        for job in chosen.jobs.split(",")
        for name in sorted(before[job].keys() | found[job].keys())
        if before[job].get(name) != found[job].get(name)
    ]
    print("\n".join(f"MOVED {name}" for name in moved) or "all digests are equal")
    return bool(moved)


if __name__ == "__main__":
    sys.exit(main())
