"""The stacked sparse auto-encoder of patches, and its federated training.

Layer by layer, then the complete stack; each stage is FedAvg over the sites, averaged by cases.
Labels are not used, so unlabelled scans and sites without labels take part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from protocol.config.schedule import OrganBox
from protocol.wire.weights import Weights, wire_weights
from server.rounds.aggregation import average, capped_shares


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Settings of the encoder and of its training.

    Attributes:
        patch: Edge of the cube that it sees, voxels, odd.
        widths: Units of each hidden layer.
        rounds: FedAvg rounds of each stage: every layer, then the complete stack.
        steps: Adam steps a site and round.
        batch: Patches a step.
        lr: Adam's rate.
        sparsity: Mean activation rho that every unit is drawn to, in (0, 1).
        sparsity_weight: Of the KL term.
    """

    patch: int = 5
    widths: tuple[int, ...] = (128, 48)
    rounds: int = 8
    steps: int = 40
    batch: int = 256
    lr: float = 3e-3
    sparsity: float = 0.1
    sparsity_weight: float = 0.003


@dataclass(frozen=True, kw_only=True)
class SiteScans:
    """One site's training scans, (X, Y, Z) each, normalised."""

    images: Sequence[NDArray[np.float32]]


class SparseEncoder(nn.Module):
    """Sigmoid layers with a decoder each: sigmoid too, but linear where voxels are rebuilt."""

    def __init__(self, options: EncoderOptions) -> None:
        super().__init__()
        sizes = (options.patch**3, *options.widths)
        pairs = list(pairwise(sizes))
        self.encoders = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.decoders = nn.ModuleList(nn.Linear(b, a) for a, b in pairs)

    def forward(self, patches: Tensor) -> Tensor:
        """(n, patch^3) to the features of the last layer, (n, widths[-1]) in [0, 1]."""
        return self.encode(patches)[-1]

    def encode(self, patches: Tensor) -> list[Tensor]:
        """The patches and what each layer makes of them."""
        codes = [patches]
        for layer in self.encoders:
            codes.append(torch.sigmoid(layer(codes[-1])))
        return codes

    def decode(self, code: Tensor, top: int, bottom: int = 0) -> Tensor:
        """From a code of layer `top` down to what layer `bottom` took."""
        for index in range(top, bottom - 1, -1):
            code = self.decoders[index](code)
            if index:
                code = torch.sigmoid(code)
        return code


def sparsity_penalty(activations: Tensor, rho: float) -> Tensor:
    r"""Sum over units of KL(rho || mean activation), of Bernoulli distributions.

    sum_j rho ln(rho / r_j) + (1 - rho) ln((1 - rho) / (1 - r_j)), r_j the mean over the patches.

    Args:
        activations: (n, units) in [0, 1].
        rho: In (0, 1).

    Returns:
        Scalar, at least 0; 0 where every unit's mean is rho.

    Source: Guo, Gao, Shen, IEEE TMI 2016; Ng, Sparse autoencoder, 2011.
    """
    mean = activations.mean(0).clamp(1e-6, 1 - 1e-6)
    kl = rho * torch.log(rho / mean) + (1 - rho) * torch.log((1 - rho) / (1 - mean))
    return kl.sum()


def stage_loss(
    encoder: SparseEncoder, patches: Tensor, stage: int, options: EncoderOptions
) -> Tensor:
    """Mean squared error of what is rebuilt, plus the sparsity of the layers that are trained.

    Args:
        encoder: Layers below the stage's own are left as they are.
        patches: (n, patch^3).
        stage: A layer from 0; the number of layers means the complete stack.
        options: Sparsity and its weight.
    """
    depth = len(encoder.encoders)
    codes = encoder.encode(patches)
    if stage == depth:
        rebuilt, wanted, trained = encoder.decode(codes[-1], depth - 1), patches, codes[1:]
    else:
        wanted = codes[stage].detach()
        code = torch.sigmoid(encoder.encoders[stage](wanted))
        rebuilt, trained = encoder.decode(code, stage, stage), [code]
    penalty = torch.stack([sparsity_penalty(code, options.sparsity) for code in trained]).sum()
    return nn.functional.mse_loss(rebuilt, wanted) + options.sparsity_weight * penalty


def train_encoder(
    sites: Mapping[str, SiteScans], box: OrganBox | None, options: EncoderOptions, seed: int
) -> Weights:
    """FedAvg over the sites; with one site this is its own, or the pooled, training.

    Args:
        sites: At least one, each with a scan.
        box: Patches are centred in it, fractions of a scan; None: anywhere.
        options: Settings.
        seed: Same seed, same weights.

    Raises:
        ValueError: If there is no site, or a site has no scan.
    """
    if not sites or any(not site.images for site in sites.values()):
        raise ValueError("encoder: every site needs a training scan, and one site there must be")
    shares = capped_shares({name: float(len(site.images)) for name, site in sites.items()}, 1.0)
    weights = initial_weights(options, seed)
    for stage in range(len(options.widths) + 1):
        for number in range(options.rounds):
            updates = {}
            for index, name in enumerate(sorted(sites)):
                rng = np.random.default_rng([seed, 23, index, stage, number])
                updates[name] = train_site(weights, sites[name], box, options, stage, rng)
            weights = average(updates, shares)
    return weights


def train_site(
    weights: Weights,
    site: SiteScans,
    box: OrganBox | None,
    options: EncoderOptions,
    stage: int,
    rng: np.random.Generator,
) -> Weights:
    """One site's steps of one round, from the round's weights."""
    encoder = load_encoder(weights, options).train()
    optimiser = torch.optim.Adam(encoder.parameters(), lr=options.lr)
    for _ in range(options.steps):
        patches = draw_patches(site, box, options, rng)
        optimiser.zero_grad()
        stage_loss(encoder, patches, stage, options).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return wire_weights(encoder.state_dict())


def initial_weights(options: EncoderOptions, seed: int) -> Weights:
    """Xavier weights from a generator of their own, zero biases."""
    generator = torch.Generator().manual_seed(seed)
    encoder = SparseEncoder(options)
    for name, parameter in sorted(encoder.named_parameters()):
        if name.endswith("weight"):
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)
    return wire_weights(encoder.state_dict())


def load_encoder(weights: Weights, options: EncoderOptions) -> SparseEncoder:
    """An encoder with these weights."""
    encoder = SparseEncoder(options)
    encoder.load_state_dict(weights)
    return encoder.eval()


def draw_patches(
    site: SiteScans, box: OrganBox | None, options: EncoderOptions, rng: np.random.Generator
) -> Tensor:
    """(batch, patch^3) cubes, their scans drawn uniformly; edges are continued."""
    batch = np.empty((options.batch, options.patch**3), np.float32)
    scans = rng.integers(len(site.images), size=options.batch)
    low, high = np.array(box or (0, 0, 0, 1, 1, 1), float).reshape(2, 3)
    places = low + rng.random((options.batch, 3)) * (high - low)
    reach = np.arange(options.patch) - options.patch // 2
    for scan in np.unique(scans):
        image, mine = site.images[scan], scans == scan
        size = np.array(image.shape)
        voxels = (places[mine] * size).astype(int)[:, :, None] + reach
        x, y, z = np.clip(voxels, 0, size[:, None] - 1).transpose(1, 0, 2)
        cubes = image[x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]]
        batch[mine] = cubes.reshape(len(cubes), -1)
    return torch.from_numpy(batch)


@torch.no_grad()
def dense_features(
    encoder: SparseEncoder, image: NDArray[np.float32], patch: int
) -> NDArray[np.float32]:
    """Features of the patch around every voxel, (X, Y, Z, F); edges are continued."""
    padded = torch.from_numpy(np.pad(image, patch // 2, mode="edge"))
    cubes = padded.unfold(0, patch, 1).unfold(1, patch, 1).unfold(2, patch, 1)
    rows = [encoder(plane.reshape(-1, patch**3)) for plane in cubes]
    features: NDArray[np.float32] = torch.stack(rows).reshape(*image.shape, -1).numpy()
    return features
