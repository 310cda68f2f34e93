"""What a protocol can name: segmentation networks and ways to learn from unlabelled scans.

One line here and one file make a new one; CONTRIBUTING.md has an example.  The code is named, not
imported: the protocol knows what may be asked for, `asdnet_models` what it does.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Network:
    """A segmentation network.

    Attributes:
        build: "module:function"; called with a NetworkConfig and the number of classes.
        stride: Every patch edge must be a multiple of this many voxels.
        features: Whether it is a `features(image)` followed by a `head(features)`.
    """

    build: str
    stride: int
    features: bool = False


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train.

    Attributes:
        build: "module:class"; one object of it takes the steps of one round at one site.
        confidence: Whether it has Eq. 5 and 6, and so a confidence network D.
        pseudo_labels: Whether sites label their unlabelled scans at rounds that the server
            announces.
        embedding: Whether it has a loss on the features before the network's head.
        means_over_samples: Whether all its losses are, and it can take a step in parts
            (`Networks.parts`).
    """

    build: str
    confidence: bool = False
    pseudo_labels: bool = False
    embedding: bool = False
    means_over_samples: bool = False


NETWORKS: Mapping[str, Network] = {
    "svnet": Network(build="asdnet_models.networks.svnet:build_svnet", stride=8, features=True),
    "vnet": Network(build="asdnet_models.networks.svnet:build_vnet", stride=16, features=True),
    "unet": Network(build="asdnet_models.networks.unet:build_unet", stride=8),
    "dsresunet": Network(build="asdnet_models.networks.dsresunet:build_dsresunet", stride=8),
}

METHODS: Mapping[str, Method] = {
    "asdnet": Method(
        build="asdnet_models.methods.asdnet:ASDNet", confidence=True, means_over_samples=True
    ),
    "semi-fcn": Method(build="asdnet_models.methods.semi_fcn:SemiFCN", pseudo_labels=True),
    "semi-embed": Method(build="asdnet_models.methods.semi_embed:SemiEmbed", embedding=True),
}


def check_name(name: str, known: Mapping[str, object]) -> str:
    """The name, if it is known.

    Raises:
        ValueError: With the names that are.
    """
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}, not {name!r}")
    return name
