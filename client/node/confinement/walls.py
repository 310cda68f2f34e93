"""Where the walls of a site's worker stand: which files are its own, which it reads."""

import os
import re
import sys
from pathlib import Path

from client.node.confinement.limits import Walls
from protocol.config.site import SiteConfig

_PROCESSES = 1024
_PROCESSES_A_CORE = 16  # PyTorch starts several threads for each
# PyTorch, CUDA's side of the host, a scan that is read; threads' stacks count whole.
_LIBRARIES, _STACKS_A_CORE = 8 * 2**30, 64 * 2**20
_ROOT = Path(__file__).resolve().parents[3]
_PASSED_ON = re.compile(
    r"(PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|TZ|CC|CXX|CUDA_HOME|LD_LIBRARY_PATH|LD_PRELOAD"
    r"|DO_NOT_TRACK|NO_COLOR)$|(LC|OMP|GOMP|KMP|MKL|OPENBLAS|NUMEXPR|CUDA|CUBLAS|CUDNN|NCCL|NVIDIA"
    r"|HIP|HSA|ROCR|ROCM|MIOPEN|TORCH|PYTORCH|TORCHINDUCTOR|TRITON|ITK|MONAI|MALLOC|COVERAGE|FLWR"
    r"|RAY|MLFLOW)_"
)
# Folders of the state that the approved code keeps; the others are the executor's.
KEPT_BY_THE_CODE = (
    "averages",
    "cohorts",
    "optimisers",
    "pseudo-labels",
    "residuals",
    "teachers",
)
_TEMPORARY, _COMPILED = "worker/tmp", "worker/compiled"
# Devices; and /proc, where CUDA names its threads: of other processes nothing can be written there.
_DEVICES = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm", "/dev/dri",
    "/dev/kfd", "/proc",
)  # fmt: skip


def walls_of(config: SiteConfig) -> Walls:
    """For a worker that this process starts now, whose folders there are (`make_folders`)."""
    own = _own_folders(config)
    devices = [Path(name) for name in _DEVICES] + sorted(Path("/dev").glob("nvidia*"))
    read = [Path(sys.prefix), Path(sys.base_prefix), _ROOT, config.data]
    read += [config.patients] if config.patients else []
    return Walls(
        parent=os.getpid(),
        memory=memory_bytes(config),
        processes=_PROCESSES + _PROCESSES_A_CORE * (os.cpu_count() or 1),
        hidden=tuple(map(str, (config.state, config.key_file))),
        readable=tuple(str(path.resolve()) for path in read),
        writable=tuple(map(str, (config.cache, *own, *devices))),
    )


def make_folders(config: SiteConfig) -> None:
    """The worker's own folders, for it can make none beside them.

    Raises:
        OSError: One cannot be made.
    """
    for folder in (config.cache, *_own_folders(config)):
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)


def _own_folders(config: SiteConfig) -> list[Path]:
    return [config.state / name for name in (*KEPT_BY_THE_CODE, _TEMPORARY, _COMPILED)]


def memory_bytes(config: SiteConfig) -> int:
    """What the worker may hold: the site's limit of a step, and what libraries take besides."""
    stacks = _STACKS_A_CORE * (os.cpu_count() or 1)
    return int(config.limits.max_memory_gib * 2**30) + _LIBRARIES + stacks


def child_environment(config: SiteConfig) -> dict[str, str]:
    """What libraries go by, of this process's variables; with folders of its own.

    Others may hold secrets, or tell Python where code is.
    """
    kept = {name: text for name, text in os.environ.items() if _PASSED_ON.match(name)}
    compiled = str(config.state / _COMPILED)
    return kept | {
        "TMPDIR": str(config.state / _TEMPORARY),
        "TORCHINDUCTOR_CACHE_DIR": compiled,
        "TRITON_CACHE_DIR": compiled,
        "CUDA_CACHE_PATH": compiled,
    }
