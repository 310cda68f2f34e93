"""A site's way to take steps changes no result beyond rounding, or is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asdnet_models.methods.asdnet import train_step
from asdnet_models.methods.batches import LabelledBatch
from asdnet_models.networks import build_confidence, build_segmenter
from client.data.dataset import prepare_site
from client.training.device import build_networks, check_accumulate
from client.training.round import train_round
from protocol.config.schedule import RoundPlan
from protocol.config.site import SiteConfig
from protocol.config.study import ProtocolError, StudyProtocol
from protocol.wire.weights import wire_weights

MakeProtocol = Callable[..., StudyProtocol]
MakeSite = Callable[..., SiteConfig]
CPU = torch.device("cpu")
PLAN = RoundPlan(round=1, lr_factor=1, adversarial_ramp=1, region_ramp=1)


def test_a_round_in_parts_is_the_round(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    # Without weight decay and momentum's blow-up of rounding: one step, a rate of Adam's size.
    protocol = make_protocol(training={"batch_size": 2, "local_steps": 1})
    config = make_site()
    data = prepare_site(config, protocol)
    segmenter = wire_weights(build_segmenter(protocol).state_dict())
    confidence = wire_weights(build_confidence(protocol).state_dict())
    reports = []
    for parts in (1, 2):
        site = config.model_copy(update={"accumulate": parts, "state": config.state / str(parts)})
        made = train_round(site, protocol, PLAN, data, segmenter, confidence, run="tiny")
        reports.append(made.report)
    whole, in_parts = reports
    for name, total in whole.losses.items():
        assert in_parts.losses[name].count == total.count
        assert in_parts.losses[name].sum == pytest.approx(total.sum, rel=1e-3, abs=1e-5)
    assert in_parts.trusted.keys() == whole.trusted.keys()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": {"gamma_rule": "quantile"}}, "ranks the voxels of the whole batch"),
        ({"network": {"norm": "batch"}}, "statistics over the whole batch"),
        ({"method": {"name": "semi-embed"}}, "semi-embed takes its steps whole"),
    ],
)
def test_what_is_no_mean_over_samples_is_refused_in_parts(
    make_site: MakeSite, make_protocol: MakeProtocol, changes: dict[str, Any], reason: str
) -> None:
    protocol, config = make_protocol(**changes), make_site()
    check_accumulate(config, protocol)
    with pytest.raises(ProtocolError, match=reason):
        check_accumulate(config.model_copy(update={"accumulate": 2}), protocol)


def test_every_reason_is_reported_at_once(make_site: MakeSite, make_protocol: MakeProtocol) -> None:
    protocol = make_protocol(method={"gamma_rule": "quantile"}, network={"norm": "batch"})
    config = make_site().model_copy(update={"accumulate": 2})
    with pytest.raises(ProtocolError, match=r"site A: accumulate 2.*quantile.*batch.*set accum"):
        check_accumulate(config, protocol)


def test_networks_have_the_layout_of_tensor_cores(make_protocol: MakeProtocol) -> None:
    nets = build_networks(make_protocol(), CPU, trains_confidence=True)
    for network in (nets.segmenter, nets.confidence):
        assert network is not None
        for parameter in network.parameters():
            if parameter.dim() == 5:
                assert parameter.is_contiguous(memory_format=torch.channels_last_3d)


def test_compiled_networks_give_the_same_and_keep_their_names(
    make_protocol: MakeProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as by any backend; Inductor's kernels take minutes."""
    compile_network = torch.nn.Module.compile

    def traced(network: torch.nn.Module, **options: Any) -> None:
        compile_network(network, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    protocol = make_protocol()
    generator = torch.Generator().manual_seed(1)
    label = torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)
    label[:, :, 4:9] = 1
    image = label + 0.3 * torch.randn(label.shape, generator=generator)
    losses = []
    for compiled in (False, True):
        nets = build_networks(protocol, CPU, trains_confidence=True, compiled=compiled)
        assert set(nets.segmenter.state_dict()) == set(build_segmenter(protocol).state_dict())
        batch = LabelledBatch(image=image, label=label)
        losses.append(train_step(nets, protocol.method, PLAN, batch, image).losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-5)
