"""The segmentation networks and semi-supervised methods that a configuration can name.

One line here and one file make a new one; CONTRIBUTING.md has an example.  The code is named, not
imported: a configuration is read without PyTorch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Network:
    """A segmentation network.

    Attributes:
        build: "module:class"; called with `classes`, `width`, `kernel` and `norm`.
        stride: Every patch edge must be a multiple of this many voxels, where no strides are
            listed: 2 to the power of the halvings.
        features: Whether it is a `features(image)` followed by a `head(features)`.
        repeats: How often it repeats the last of the strides and kernels that a study lists, and
            that it is then called with, as with `max_width` and `deep_supervision`; None: it takes
            none of these.
    """

    build: str
    stride: int
    features: bool = False
    repeats: int | None = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train.

    Attributes:
        build: "module:class"; one object of it takes the steps of one round at one site.
        confidence: Whether it can ask a confidence network D: by Eq. 5 and 6, or for its teacher.
        pseudo_labels: Whether sites label their unlabelled scans at rounds that the server
            announces.
        embedding: Whether it has a loss on the features before the network's head.
        teacher: Whether it has a moving average of S at the site, which labels weak views.
        second_network: Whether it trains another of S's form, which stays at the site.
        means_over_samples: Whether all its losses are, and it can take a step in parts
            (`Networks.parts`).
    """

    build: str
    confidence: bool = False
    pseudo_labels: bool = False
    embedding: bool = False
    teacher: bool = False
    second_network: bool = False
    means_over_samples: bool = False

    @property
    def gated(self) -> bool:
        """Whether `method.gate` says where its teacher is believed."""
        return self.teacher and self.confidence

    @property
    def taught(self) -> bool:
        """Whether another network at the site than S labels its unlabelled scans."""
        return self.teacher or self.second_network


NETWORKS: Mapping[str, Network] = {
    "svnet": Network(
        build="asdnet_models.networks.svnet:SVNet", stride=8, features=True, repeats=0
    ),
    "vnet": Network(build="asdnet_models.networks.svnet:VNet", stride=16, features=True, repeats=1),
    "unet": Network(build="asdnet_models.networks.unet:UNet", stride=8, repeats=0),
    "dsresunet": Network(build="asdnet_models.networks.dsresunet:DSResUNet", stride=8, repeats=0),
}

METHODS: Mapping[str, Method] = {
    "asdnet": Method(
        build="asdnet_models.methods.asdnet:ASDNet", confidence=True, means_over_samples=True
    ),
    "semi-fcn": Method(build="asdnet_models.methods.semi_fcn:SemiFCN", pseudo_labels=True),
    "semi-embed": Method(build="asdnet_models.methods.semi_embed:SemiEmbed", embedding=True),
    "region-teacher": Method(
        build="asdnet_models.methods.region_teacher:RegionTeacher", confidence=True, teacher=True
    ),
    "weak-to-strong": Method(
        build="asdnet_models.methods.weak_to_strong:WeakToStrong", confidence=True, teacher=True
    ),
    "copy-paste": Method(
        build="asdnet_models.methods.copy_paste:CopyPaste", confidence=True, teacher=True
    ),
    "mean-teacher": Method(build="asdnet_models.methods.mean_teacher:MeanTeacher", teacher=True),
    "ua-mt": Method(build="asdnet_models.methods.ua_mt:UncertaintyAwareMeanTeacher", teacher=True),
    "cross-pseudo": Method(
        build="asdnet_models.methods.cross_pseudo:CrossPseudo", second_network=True
    ),
}


def imported(build: str) -> Any:
    """The class that "module:class" names."""
    module, _, name = build.partition(":")
    return getattr(import_module(module), name)


def check_name(name: str, known: Mapping[str, object]) -> str:
    """The name, if it is known.

    Raises:
        ValueError: With the names that are.
    """
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}, not {name!r}")
    return name
