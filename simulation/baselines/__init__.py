"""The two methods of the paper's Table 1 that are no segmentation network: MALF and SSAE."""

from simulation.baselines.run import BaselineError, BaselineOptions, run_baseline

__all__ = ["BaselineError", "BaselineOptions", "run_baseline"]
