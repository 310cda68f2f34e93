"""What one case takes in memory, as the kernel counts it: in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from asdnet_models.networks import build_confidence, build_segmenter
from protocol.config.study import StudyProtocol
from protocol.model_io import save_model

# In volumes of floats: the scan, two maps on its grid, and some bytes a voxel. 4.3 were measured,
# 8.1 where every step held a copy of its own.
VOLUMES = 5.5
EDGES_XYZ = (256, 256, 192)

CHILD = """
import json, sys
from pathlib import Path
from client.data.pseudonyms import Pseudonyms
from client.segmenting.batch import predict_all
from client.segmenting.options import Options
from client.segmenting.prediction import open_model
from client.segmenting.sources import find_sources

def peak_kib():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])

folder, model = Path(sys.argv[1]), open_model(Path(sys.argv[1], "model"), "cpu", 1)
peaks = []
for name in ("small", "large"):  # the first one loads all code
    sources = find_sources([folder / f"{name}.nii"], leave_out=folder / "out").scans
    (outcome,) = predict_all(sources, folder / "out", model, Options(), Pseudonyms(bytes(32)))
    assert outcome.status == "done", outcome
    peaks.append(peak_kib())
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc")
def test_a_scan_is_not_held_many_times(
    make_protocol: Callable[..., StudyProtocol], tmp_path: Path
) -> None:
    protocol = make_protocol()
    networks = build_segmenter(protocol).state_dict(), build_confidence(protocol).state_dict()
    save_model(tmp_path / "model", protocol, *networks, {"round": 1})
    rng = np.random.default_rng(1)
    for name, size in (("small", (20, 20, 20)), ("large", EDGES_XYZ)):
        image = sitk.GetImageFromArray(rng.integers(0, 900, size[::-1], np.int16))
        image.SetSpacing([40 * mm / n for mm, n in zip(protocol.spacing_mm, size, strict=True)])
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii"))
    (tmp_path / "out").mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    before, after = json.loads(ran.stdout)
    volume_kib = 4 * np.prod(EDGES_XYZ) / 1024
    assert after - before < VOLUMES * volume_kib
