"""The two methods of the paper's Table 1 that are no segmentation network: MALF and SSAE."""
