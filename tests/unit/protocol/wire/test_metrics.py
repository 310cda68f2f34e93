"""The allow-list of metrics."""

import pytest
from wire_samples import PROTOCOL

from asdnet_models.reliability import BINS
from protocol.config.rules import RULES
from protocol.wire.metrics import allowed_metrics
from protocol.wire.reports import LOSSES


def test_the_allow_list_is_counts_sums_and_organs_of_the_study() -> None:
    assert len(allowed_metrics("facts", PROTOCOL)) == 5 + len(RULES) + 6 * 2 + 2
    drawn = {"annotated/bladder/count", "annotated/prostate/count"}
    assert drawn <= allowed_metrics("facts", PROTOCOL)
    assert len(allowed_metrics("train", PROTOCOL)) == 4 + 2 * (len(LOSSES) + 1 + 3)
    assert len(allowed_metrics("evaluate", PROTOCOL)) == 1 + 2 + 2 * 2 * 2 * 4 + 2 * 2 * BINS
    parts = {"sum", "sum_of_squares", "count", "failures"}
    dsc = {f"test/dsc/bladder/{part}" for part in parts}
    assert dsc <= allowed_metrics("evaluate", PROTOCOL)
    assert not any("rectum" in name for name in allowed_metrics("evaluate", PROTOCOL))
    with pytest.raises(ValueError, match="no message of kind 'gossip'"):
        allowed_metrics("gossip", PROTOCOL)
