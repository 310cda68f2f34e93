"""The methods of the paper's tables as settings of one protocol, and the figures it printed.

A new method is one line here, or in a file of one's own for `--own-rows`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from asdnet_models.catalogue import METHODS as KNOWN_METHODS
from asdnet_models.config import MethodConfig
from protocol.config.presets import INFORMED
from protocol.config.study import ProtocolError, StudyProtocol, merged, read_yaml

Kind = Literal["weights", "malf", "ssae"]

# Rows train as the paper does, whatever the study's method is.
_PAPERS = {"name": "asdnet"}
_SUPERVISED = {**_PAPERS, "lambda_adversarial": 0.0, "lambda_region": 0.0}
_PLAIN = {"sample_attention": "off", **_SUPERVISED}
_SVNET = {"architecture": "svnet"}
# What a row is named after, where the study has it off.
_ATTENTION, _ADVERSARIAL, _REGION = "sample_attention", "lambda_adversarial", "lambda_region"
_PAPER = MethodConfig()
_NEEDED = {
    _ATTENTION: "normalised",
    _ADVERSARIAL: _PAPER.lambda_adversarial,
    _REGION: _PAPER.lambda_region,
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method of a table.

    Attributes:
        tables: Tables of the paper that it stands in.
        changes: Sections of the study's protocol and what is different in them.
        needs: Settings of the method that are not off in this row: where the study's are, the
            paper's stand, of attention its normalised form.
        kind: "weights" for what is trained and averaged; else a baseline by name.
        published: By organ, DSC and ASD in mm (None where the paper prints none).
    """

    tables: tuple[int, ...] = ()
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    kind: Kind = "weights"
    published: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)


def _published(*pairs: tuple[float, float | None]) -> dict[str, tuple[float, float | None]]:
    return dict(zip(("bladder", "prostate", "rectum"), pairs, strict=True))


# The row that those of few labels are held against, where it is there.
SUPERVISED = "Supervised"
# What a teacher or a second network says weighs half of what a reader says, as in BCP, once it can
# draw; and a teacher follows S within twenty steps (docs/results/few-labels.md).
_TAUGHT_WEIGHT, _TEACHER_DECAY = 0.5, 0.95
_TAUGHT_RAMP = {"region_start": 0.3, "length": 0.2}


def _taught(name: str, gate: str | None = None) -> Method:
    """A method with a teacher or a second network; with the informed D where the gate asks one."""
    method = {**_PLAIN, "name": name, "lambda_region": _TAUGHT_WEIGHT}
    method |= {"teacher_decay": _TEACHER_DECAY} if KNOWN_METHODS[name].teacher else {}
    method |= {"gate": gate} if gate else {}
    asked = INFORMED if gate in ("mask", "weight") else {}
    return Method(
        changes={
            **asked,
            "method": {**INFORMED["method"], **method},
            "training": {**asked.get("training", {}), "ramp": _TAUGHT_RAMP},
        }
    )


METHODS: Mapping[str, Method] = {
    "MALF": Method(
        tables=(1,),
        kind="malf",
        published=_published((0.867, 1.641), (0.793, 2.791), (0.764, 3.210)),
    ),
    "SSAE": Method(
        tables=(1,),
        kind="ssae",
        published=_published((0.918, 1.089), (0.871, 1.660), (0.863, 1.701)),
    ),
    "UNet": Method(
        tables=(1,),
        changes={"network": {"architecture": "unet"}, "method": _PLAIN},
        published=_published((0.896, 1.214), (0.822, 1.917), (0.810, 2.186)),
    ),
    "VNet": Method(
        tables=(1, 2),
        changes={"network": {"architecture": "vnet"}, "method": _PLAIN},
        published=_published((0.926, 1.023), (0.864, 1.725), (0.832, 1.969)),
    ),
    "DSResUNet": Method(
        tables=(1,),
        changes={"network": {"architecture": "dsresunet"}, "method": _PLAIN},
        published=_published((0.944, 0.914), (0.882, 1.586), (0.869, 1.586)),
    ),
    "SVNet": Method(
        tables=(2,),
        changes={"network": _SVNET, "method": _PLAIN},
        published=_published((0.920, None), (0.862, None), (0.844, None)),
    ),
    "AttSVNet": Method(
        tables=(2,),
        changes={"network": _SVNET, "method": _SUPERVISED},
        needs=(_ATTENTION,),
        published=_published((0.931, None), (0.878, None), (0.862, None)),
    ),
    "AttSVNet+CNN": Method(
        tables=(2,),
        changes={
            "network": _SVNET,
            "method": {**_PAPERS, "lambda_region": 0.0},
            # One logit a patch cannot say which voxels are right.
            "confidence": {"architecture": "cnn", "target": "adversarial"},
        },
        needs=(_ATTENTION, _ADVERSARIAL),
        published=_published((0.938, None), (0.884, None), (0.874, None)),
    ),
    "AttSVNet+FCN": Method(
        tables=(2,),
        changes={"network": _SVNET, "method": {**_PAPERS, "lambda_region": 0.0}},
        needs=(_ATTENTION, _ADVERSARIAL),
        published=_published((0.944, None), (0.893, None), (0.887, None)),
    ),
    "semiFCN": Method(
        tables=(2,),
        changes={"network": _SVNET, "method": {"name": "semi-fcn"}},
        needs=(_ATTENTION, _REGION),
        published=_published((0.959, None), (0.895, None), (0.885, None)),
    ),
    "semiEmbedFCN": Method(
        tables=(2,),
        changes={"network": _SVNET, "method": {"name": "semi-embed"}},
        needs=(_ATTENTION,),
        published=_published((0.964, None), (0.902, None), (0.891, None)),
    ),
    "AttSVNet+Semi": Method(
        tables=(2,),
        changes={"network": _SVNET, "method": {**_PAPERS, "lambda_adversarial": 0.0}},
        needs=(_ATTENTION, _REGION),
        published=_published((0.937, None), (0.878, None), (0.865, None)),
    ),
    "ASDNet": Method(
        tables=(1, 2),
        changes={"network": _SVNET, "method": _PAPERS},
        needs=tuple(_NEEDED),
        published=_published((0.970, 0.858), (0.911, 1.316), (0.906, 1.401)),
    ),
    # Ours, in no table of the paper, run by name: D sees the scan, learns where S is right, and is
    # asked together with the softmax.
    "ASDNet-informed": Method(changes={"network": _SVNET, **INFORMED}, needs=tuple(_NEEDED)),
    # Semi-supervision of the last years, and ours over a teacher, on the study's own network; each
    # with the supervised row's recipe (docs/method.md, "A teacher of unlabelled scans").
    SUPERVISED: Method(changes={"method": _PLAIN}),
    "MeanTeacher": _taught("mean-teacher"),
    "UA-MT": _taught("ua-mt"),
    "CPS": _taught("cross-pseudo"),
    "RegionTeacher": _taught("region-teacher", "mask"),
    "WeakToStrong": _taught("weak-to-strong", "mask"),
    "CopyPaste": _taught("copy-paste", "none"),
    "CopyPaste-M": _taught("copy-paste", "mask"),
    "CopyPaste-M-weight": _taught("copy-paste", "weight"),
    "CopyPaste-softmax": _taught("copy-paste", "softmax"),
}


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .+_-]{0,39}$")]
# What may differ between methods of one experiment: all else is shared, so that they compare.
_Section = Literal["network", "confidence", "method", "training", "aggregation"]


class _OwnMethods(RootModel[dict[_Name, dict[_Section, dict[str, Any]]]]):
    """A file of methods: name, section of the protocol, what is different in it."""


def read_own_methods(path: Path) -> dict[str, Method]:
    """Methods from a YAML file, such as `ASDNet g.2: {method: {gamma: 0.2}}`.

    Raises:
        ProtocolError: If the file is not of that form, or a name is taken.
    """
    methods: dict[str, Method] = {}
    taken = {folder_name(name): name for name in METHODS}
    for name, changes in read_yaml(path, _OwnMethods).root.items():
        other = taken.setdefault(folder_name(name), name)
        if other in METHODS or other in methods:
            raise ProtocolError(f"{path}: {name}: {other} is a method already; choose another name")
        methods[name] = Method(
            changes={str(section): values for section, values in changes.items()}
        )
    return methods


def folder_name(method: str) -> str:
    """A method's name as a file system takes it."""
    return re.sub(r"[^A-Za-z0-9]+", "-", method).strip("-")


def own_methods(methods: Mapping[str, Method]) -> dict[str, dict[str, dict[str, Any]]]:
    """The changes of methods that are in no table of the paper, for the experiment's record."""
    return {
        name: {section: dict(values) for section, values in method.changes.items()}
        for name, method in methods.items()
        if not method.tables
    }


def protocol_of(method: Method, base: StudyProtocol, seed: int) -> StudyProtocol:
    """The study's protocol with what this method changes.

    Raises:
        pydantic.ValidationError: If the changed protocol breaks a rule, such as a patch that
            the method's network cannot halve often enough.
    """
    protocol = merged(base, {"seed": seed, **method.changes})
    off = [name for name in method.needs if getattr(protocol.method, name) in ("off", 0.0)]
    return merged(protocol, {"method": {name: _NEEDED[name] for name in off}})
