"""The sparse auto-encoder, its federation, and sparse patch matching."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from asdnet_models.metrics import dice
from simulation.baselines import ssae
from simulation.baselines.encoder import (
    EncoderOptions,
    SiteScans,
    SparseEncoder,
    dense_features,
    draw_patches,
    initial_weights,
    load_encoder,
    sparsity_penalty,
    stage_loss,
    train_encoder,
    train_site,
)
from simulation.baselines.volumes import Atlas, to_xyz

MakeAtlas = Callable[..., Atlas]
TINY = EncoderOptions(patch=3, widths=(12, 6), rounds=2, steps=15, batch=64)
OPTIONS = ssae.SsaeOptions(encoder=TINY, atlases=2, search=2, nearest=6, margin_mm=8)


@pytest.fixture
def scans(make_atlas: MakeAtlas) -> dict[str, SiteScans]:
    a, b, c = (to_xyz(make_atlas(n, (s, 0, 0)).image) for n, s in (("a", 0), ("bb", 1), ("cc", 2)))
    return {"A": SiteScans(images=[a]), "B": SiteScans(images=[b, c])}


def whole_loss(weights: dict[str, torch.Tensor], site: SiteScans) -> float:
    patches = draw_patches(site, None, TINY, np.random.default_rng(99))
    loss = stage_loss(load_encoder(weights, TINY), patches, len(TINY.widths), TINY)
    return float(loss.detach())


def test_sparsity_penalty_by_hand() -> None:
    activations = torch.tensor([[0.2, 0.5], [0.0, 0.5]])  # means 0.1 and 0.5
    expected = 0.1 * math.log(0.1 / 0.5) + 0.9 * math.log(0.9 / 0.5)
    assert float(sparsity_penalty(activations, 0.1)) == pytest.approx(expected, abs=1e-6)
    assert math.isfinite(float(sparsity_penalty(torch.zeros(3, 2), 0.1)))


def test_training_lowers_the_loss_and_repeats(scans: dict[str, SiteScans]) -> None:
    before = whole_loss(initial_weights(TINY, 5), scans["B"])
    trained = train_encoder(scans, None, TINY, 5)
    assert whole_loss(trained, scans["B"]) < 0.7 * before
    again, other = train_encoder(scans, None, TINY, 5), train_encoder(scans, None, TINY, 6)
    assert all(torch.equal(trained[name], again[name]) for name in trained)
    assert not all(torch.equal(trained[name], other[name]) for name in trained)


def test_two_sites_are_averaged_by_cases(scans: dict[str, SiteScans]) -> None:
    options = EncoderOptions(patch=3, widths=(4,), rounds=1, steps=2, batch=8)
    weights = initial_weights(options, 3)
    for stage in (0, 1):
        one, two = (
            train_site(
                weights, scans[s], None, options, stage, np.random.default_rng([3, 23, i, stage, 0])
            )
            for i, s in enumerate("AB")
        )
        weights = {name: one[name] / 3 + 2 * two[name] / 3 for name in one}
    found = train_encoder(scans, None, options, 3)
    assert all(torch.allclose(found[name], weights[name], atol=1e-6) for name in weights)


def test_a_stage_trains_its_own_layer_alone(scans: dict[str, SiteScans]) -> None:
    before = initial_weights(TINY, 1)
    after = train_site(before, scans["A"], None, TINY, 1, np.random.default_rng(0))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed} == {"1"}


def test_a_site_without_scans_is_refused(scans: dict[str, SiteScans]) -> None:
    for sites in ({}, scans | {"C": SiteScans(images=[])}):
        with pytest.raises(ValueError, match="needs a training scan"):
            train_encoder(sites, None, TINY, 1)


def test_patches_come_from_the_box(scans: dict[str, SiteScans]) -> None:
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None], (20, 20, 20))
    box = (0.25, 0.0, 0.0, 0.5, 1.0, 1.0)
    patches = draw_patches(SiteScans(images=[ramp]), box, TINY, np.random.default_rng(0))
    centres = patches[:, 13]
    assert patches.shape == (64, 27) and centres.min() >= 5 and centres.max() < 10


def test_dense_features_are_those_of_single_patches(scans: dict[str, SiteScans]) -> None:
    image = scans["A"].images[0]
    encoder = SparseEncoder(TINY)
    dense = dense_features(encoder, image, 3)
    single = encoder(torch.from_numpy(image[4:7, 9:12, 2:5].reshape(1, -1).copy()))
    assert dense.shape == (*image.shape, 6)
    assert np.allclose(dense[5, 10, 3], single.detach().numpy()[0], atol=1e-6)


def test_sparse_weights_find_what_a_feature_was_made_of() -> None:
    candidates = torch.eye(4)[None]
    wanted = torch.tensor([[0.75, 0.25, 0.0, 0.0]])
    weights = ssae.sparse_weights(wanted, candidates, 0.0, 50)
    assert torch.allclose(weights, wanted, atol=1e-4)
    sparser = ssae.sparse_weights(wanted, candidates, 0.2, 200)
    assert sparser[0, 0] > 0.8 and (sparser >= 0).all()


def test_matching_recovers_the_labels_of_a_shifted_copy(make_atlas: MakeAtlas) -> None:
    atlas, target = make_atlas("atlas"), make_atlas("atlas", (2, -1, 1))
    sites = {"A": SiteScans(images=[to_xyz(atlas.image)])}
    encoder = load_encoder(train_encoder(sites, None, TINY, 1), TINY)
    features = [dense_features(encoder, to_xyz(one.image), 3) for one in (target, atlas)]
    votes = np.moveaxis(np.eye(3, dtype=np.float32)[to_xyz(atlas.label)], -1, 0)[None]
    found = ssae.match(features[0], features[1][None], votes, OPTIONS)
    truth, unmoved = to_xyz(target.label), to_xyz(atlas.label)
    for value in (1, 2):
        moved = dice(found.argmax(0) == value, truth == value)
        assert moved > 0.85 > 0.7 > dice(unmoved == value, truth == value)
    assert np.allclose(found.sum(0), 1, atol=1e-5)


def test_a_moved_patient_is_segmented(make_atlas: MakeAtlas, scans: dict[str, SiteScans]) -> None:
    target = make_atlas("target", (3, -2, 2), 1.1)
    weights = train_encoder(scans, None, TINY, 1)
    atlases = [make_atlas("a"), make_atlas("bb")]
    found = ssae.class_probabilities(target, atlases, 3, weights, OPTIONS).argmax(0)
    for value in (1, 2):
        assert dice(found == value, to_xyz(target.label) == value) > 0.8


def test_smaller_pieces_become_background() -> None:
    probabilities = np.zeros((2, 9, 3, 3), np.float32)
    probabilities[0] = 1
    for piece in (slice(0, 4), slice(6, 7)):
        probabilities[:, piece] = np.array([0.25, 0.75])[:, None, None, None]
    cleaned = ssae.largest_component_per_organ(probabilities)
    assert (cleaned[1, :4] == 0.75).all() and (cleaned[1, 4:] == 0).all()
    assert (cleaned.sum(0) == 1).all()
