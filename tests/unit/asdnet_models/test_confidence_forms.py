"""Confidence networks beside the paper's form: what they see and learn, how gamma is set."""

import math

import pytest
import torch
from torch import Tensor, nn

from asdnet_models.class_maps import one_hot_maps
from asdnet_models.config import MethodConfig
from asdnet_models.inference.sliding_window import predict_confidence
from asdnet_models.losses import correctness_loss, rank_thresholds, trusted_voxels
from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.methods.common import Networks
from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from asdnet_models.networks import build_confidence, build_segmenter
from asdnet_models.networks.confidence import ConfidenceFCN, confidence_map
from protocol.config.schedule import RoundPlan
from protocol.config.study import StudyProtocol

FULL = RoundPlan(round=9, lr_factor=1, adversarial_ramp=1, region_ramp=1)


def protocol(**confidence: str) -> StudyProtocol:
    return StudyProtocol(
        organs={"bladder": 1, "prostate": 2},
        patch_voxels=(16, 16, 16),
        network=NetworkConfig(width=4, kernel=3),
        confidence=ConfidenceConfig.model_validate({"width": 2, **confidence}),
    )


def batches() -> tuple[LabelledBatch, Tensor]:
    generator = torch.Generator().manual_seed(1)
    label = torch.zeros(2, 1, 16, 16, 16, dtype=torch.long)
    label[:, :, 2:7] = 1
    label[:, :, 9:13, 4:12] = 2
    image = label + 0.3 * torch.randn(label.shape, generator=generator)
    return LabelledBatch(image=image, label=label), torch.randn(2, 1, 16, 16, 16)


def networks(study: StudyProtocol, rate: float = 1e-3) -> Networks:
    segmenter, confidence = build_segmenter(study), build_confidence(study)
    return Networks(
        segmenter=segmenter,
        segmenter_optimiser=torch.optim.Adam(segmenter.parameters(), rate),
        confidence=confidence,
        confidence_optimiser=torch.optim.Adam(confidence.parameters(), rate),
        learns_correctness=study.confidence.target == "correctness",
        softmax_prior=study.confidence.prior == "softmax",
    )


# ---- the map ------------------------------------------------------------------------------------


def test_the_map_by_hand() -> None:
    maps = torch.tensor([0.1, 0.8, 0.1]).reshape(1, 3, 1, 1, 1)
    logits = torch.full((1, 1, 1, 1, 1), math.log(9))
    assert confidence_map(logits, maps, softmax_prior=False).item() == pytest.approx(0.9)
    # Odds 9 and 4: their geometric mean is 6.
    assert confidence_map(logits, maps, softmax_prior=True).item() == pytest.approx(6 / 7)


def test_a_certain_softmax_gives_a_finite_map() -> None:
    maps = one_hot_maps(torch.zeros(1, 1, 2, 2, 2, dtype=torch.long), 3)
    found = confidence_map(torch.zeros(1, 1, 2, 2, 2), maps, softmax_prior=True)
    assert torch.isfinite(found).all()
    assert (found > 0.99).all() and (found < 1).all()


def test_d_that_sees_the_image_answers_to_it() -> None:
    torch.manual_seed(0)
    maps, image = torch.softmax(torch.randn(1, 3, 8, 8, 8), 1), torch.randn(1, 1, 8, 8, 8)
    blind = ConfidenceFCN(classes=3, width=2)
    seeing = ConfidenceFCN(classes=3, width=2, sees_image=True)
    assert torch.equal(blind(maps, image), blind(maps, -image))
    assert not torch.allclose(seeing(maps, image), seeing(maps, -image))
    with pytest.raises(ValueError, match="needs the image with the maps; none was given"):
        seeing(maps)


def test_the_map_of_a_volume_is_that_of_its_voxels() -> None:
    class Voxelwise(nn.Module):
        def forward(self, maps: Tensor, image: Tensor) -> Tensor:
            return 3 * maps[:, 1:2] - image

    image = torch.randn(1, 1, 20, 17, 9, generator=torch.Generator().manual_seed(2))
    maps = torch.softmax(torch.cat((image, -image, image / 2), 1), 1)
    found = predict_confidence(Voxelwise(), maps, image, (16, 16, 8), overlap=0.5)
    assert found.shape == image.shape
    torch.testing.assert_close(found, torch.sigmoid(3 * maps[:, 1:2] - image))


# ---- what D learns ------------------------------------------------------------------------------


def test_correctness_loss_by_hand() -> None:
    maps = torch.tensor([[0.7, 0.3], [0.4, 0.6]]).T.reshape(1, 2, 2, 1, 1)  # predicts 0, 1
    label = torch.tensor([0, 0]).reshape(1, 1, 2, 1, 1)  # right, wrong
    logits = torch.tensor([math.log(3), -math.log(4)]).reshape(1, 1, 2, 1, 1)
    expected = (math.log(4 / 3) + math.log(5 / 4)) / 2
    assert correctness_loss(logits, maps, label).item() == pytest.approx(expected)


def test_d_learns_where_s_is_right() -> None:
    nets = networks(protocol(input="maps+image", target="correctness"), rate=3e-3)
    nets.segmenter_optimiser = torch.optim.SGD(nets.segmenter.parameters(), 0.0)
    labelled, _ = batches()
    method = MethodConfig(lambda_region=0.0)
    records = [train_step(nets, method, FULL, labelled, None) for _ in range(60)]
    first, last = records[0].losses, records[-1].losses
    assert last["confidence"] < 0.8 * first["confidence"]
    assert last["confidence_on_right"] - last["confidence_on_wrong"] > 0.2
    assert "confidence_on_real" not in last


def test_correctness_leaves_s_alone_in_the_step_of_d() -> None:
    nets = networks(protocol(target="correctness"))
    labelled, unlabelled = batches()
    seen: list[bool] = []

    def at_d_step(*_: object) -> None:
        seen.append(all(p.grad is None for p in nets.segmenter.parameters()))

    assert nets.confidence_optimiser is not None
    nets.confidence_optimiser.register_step_pre_hook(at_d_step)
    train_step(nets, MethodConfig(), FULL, labelled, unlabelled)
    assert seen == [True]


# ---- gamma --------------------------------------------------------------------------------------


def test_the_best_share_of_each_class_is_trusted() -> None:
    confidence = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.9, 0.8]).reshape(1, 1, 6, 1, 1)
    pseudo = torch.tensor([0, 0, 0, 0, 1, 1]).reshape(1, 1, 6, 1, 1)
    thresholds = rank_thresholds(confidence, pseudo, 0.5)
    trusted = trusted_voxels(confidence, thresholds).flatten().tolist()
    assert trusted == [False, False, True, True, True, False]
    assert trusted_voxels(confidence, rank_thresholds(confidence, pseudo, 1.0)).all()


def test_equals_at_the_limit_are_all_trusted_and_a_rare_class_keeps_one() -> None:
    confidence = torch.tensor([0.5, 0.5, 0.5, 0.7]).reshape(1, 1, 4, 1, 1)
    pseudo = torch.tensor([0, 0, 0, 1]).reshape(1, 1, 4, 1, 1)
    trusted = trusted_voxels(confidence, rank_thresholds(confidence, pseudo, 0.01))
    assert trusted.all()


@pytest.mark.parametrize(("rule", "share"), [("fixed", 0.0), ("quantile", 0.25)])
def test_the_rule_decides_the_coverage(rule: str, share: float) -> None:
    nets = networks(protocol())
    method = MethodConfig.model_validate(
        {"gamma_rule": rule, "trusted_share": 0.25, "gamma": 0.999}
    )
    record = train_step(nets, method, FULL, *batches())
    fraction = sum(record.trusted_by_class) / sum(record.predicted_by_class)
    assert fraction == pytest.approx(share, abs=0.01)


def test_the_announced_gamma_replaces_the_protocols() -> None:
    announced = FULL.model_copy(update={"gamma": 0.0})
    method = MethodConfig(gamma_rule="calibrated", gamma=0.999)
    labelled, unlabelled = batches()
    covered = [
        sum(train_step(networks(protocol()), method, plan, labelled, unlabelled).trusted_by_class)
        for plan in (FULL, announced)
    ]
    assert covered[0] == 0
    assert covered[1] == 2 * 16**3
