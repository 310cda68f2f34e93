"""Published splits of public data sets, for few labels: `asdnet-sim tables --benchmark NAME`.

A benchmark is an entry of `_ALL`: how its cases are split by name, its organs, the study that
trains on it, and what has been published on it.  It has no validation cases: the model of the last
round is judged, as the field does (Yu et al., MICCAI 2019; Bai et al., CVPR 2023).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol.config.presets import as_paper
from protocol.config.study import ProtocolError, StudyProtocol, merged
from protocol.config.training import MOST
from simulation.errors import SplitError

# By method, mean DSC on the test cases, as published.
Figures = Mapping[str, float]
# What every benchmark trains by: the recipe of `planned` on a small network of the paper's form,
# 2,000 steps a site, scored once.
_RECIPE: Mapping[str, Mapping[str, Any]] = {
    "network": {"architecture": "svnet", "width": 8, "kernel": 3},
    "training": {"rounds": 40, "local_steps": 50},
    # A crop has no air that could be left out.
    "evaluation": {"every_rounds": MOST, "windows": "all"},
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A data set, its split by name, and the study that trains on it.

    Attributes:
        name: As `--benchmark` takes it; also of the study.
        about: Whose split of what.
        organs: Label values.
        training: How many cases are trained on.
        test: How many are tested on.
        tested: Names of the test cases, of all names in order.
        sites: Hospitals that the cases are dealt to, if nobody says another number.
        labels: Numbers of labelled training cases that it is run with.
        grid: Spacing and patch of the study.
        published: By number of labels, figures of others.
        source: Where these come from, and what differs there.
    """

    name: str
    about: str
    organs: Mapping[str, int]
    training: int
    test: int
    tested: Callable[[Sequence[str]], Sequence[str]]
    labels: tuple[int, ...]
    grid: Mapping[str, Any]
    sites: int = 4
    published: Mapping[int, Figures] = field(default_factory=dict)
    source: str = ""

    @property
    def protocol(self) -> StudyProtocol:
        """The study, with the paper's form of D, from which the rows of the tables start."""
        base = as_paper("planned").model_copy(update={"organs": dict(self.organs)})
        return merged(base, {"name": self.name, **self.grid, **_RECIPE})

    def test_names(self, names: Sequence[str]) -> frozenset[str]:
        """Which of these cases are tested on.

        Raises:
            SplitError: Another number of cases is there than was published on.
        """
        ordered = sorted(names)
        tested = frozenset(self.tested(ordered))
        found = (len(ordered) - len(tested), len(tested))
        if found != (self.training, self.test):
            raise SplitError(
                f"benchmark {self.name}: has {self.training} training and {self.test} test cases"
                f" with labels, by name, and here are {found[0]} and {found[1]}; give --cohort the"
                " whole data set"
            )
        return tested

    def note(self, labels: int | None) -> str:
        """Of a number of labels that it is not run with; empty where there is nothing to say."""
        if labels is None or labels in (*self.labels, self.training):
            return ""
        return (
            f"note: benchmark {self.name} is run with {', '.join(map(str, self.labels))} or all"
            f" labels, not {labels}: nobody's scores compare"
        )


def _named_test(names: Sequence[str]) -> list[str]:
    return [name for name in names if "_test_" in name]


def _last_twenty(names: Sequence[str]) -> Sequence[str]:
    return names[-20:]


_ALL = (
    Benchmark(
        name="atrium",
        about="left atrium in late-gadolinium MR (Xiong et al. 2020), split by Yu et al., "
        "MICCAI 2019",
        organs={"left_atrium": 1},
        training=80,
        test=20,
        tested=_named_test,
        labels=(4, 8, 16),
        grid={"spacing_mm": (1.875, 1.875, 1.875), "patch_voxels": (48, 40, 24)},
        published={
            4: {"V-Net, supervised": 0.526, "UA-MT": 0.823, "MC-Net": 0.836, "BCP": 0.880},
            8: {"V-Net, supervised": 0.827, "UA-MT": 0.878, "MC-Net": 0.876, "BCP": 0.896},
            80: {"V-Net, supervised": 0.915},
        },
        source="V-Net in one place at full resolution (.625 mm; ours is averaged to 1.875 mm). "
        "The figures are those of the table of Bai et al., CVPR 2023, whose authors choose the "
        "model on the test cases.",
    ),
    Benchmark(
        name="hippocampus",
        about="anterior and posterior hippocampus in T1 MR (Medical Segmentation Decathlon, "
        "Task04), the last 20 of 70 cases in name order tested on",
        organs={"anterior": 1, "posterior": 2},
        training=50,
        test=20,
        tested=_last_twenty,
        labels=(4, 10),
        grid={"spacing_mm": (1.0, 1.0, 1.0), "patch_voxels": (32, 48, 32)},
    ),
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ProtocolError: There is none.
    """
    if name not in BENCHMARKS:
        raise ProtocolError(f"--benchmark: must be of {', '.join(BENCHMARKS)}, not {name!r}")
    return BENCHMARKS[name]
