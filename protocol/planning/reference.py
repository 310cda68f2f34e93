"""The step by which sites say how fast they train: small, and the same everywhere."""

from asdnet_models.network_config import ConfidenceConfig, NetworkConfig
from protocol.config.study import StudyProtocol
from protocol.config.training import TrainingConfig

REFERENCE = StudyProtocol(
    name="reference",
    patch_voxels=(32, 32, 32),
    network=NetworkConfig(width=16, kernel=3),
    confidence=ConfidenceConfig(width=8, input="maps+image", target="correctness"),
    training=TrainingConfig(batch_size=2),
)
