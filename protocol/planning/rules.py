"""The constants of the planner, all in one place."""

# A coarse axis: its voxels over so many times as long as on the others, and its size less than so
# many times smaller (Isensee et al., Nature Methods 2021).
ANISOTROPY = 3.0
# Spacing along a coarse axis: this quantile of the cases' spacings, the median along the others.
COARSE_QUANTILE = 0.1
# An axis is halved while this many voxels are left after it, and while its voxels are less than
# FACTOR times the finest axis's; kernels are flat along an axis until its voxels are (Isensee).
LEAST_EDGE = 4
FACTOR = 2.0
MOST_STRIDES = 5

# Channels at full resolution that are tried, best first, and at most at any stage (Isensee: 32 and
# 320).  The first that leaves time for enough patches is taken; only below the last the grid is
# made coarser.  Isensee's 320 is ten times the first stage's; a narrow network of six stages would
# be nearly all deepest stage, and that crosses the wire.
WIDTHS = (32, 24, 16, 12, 8)
# What a narrow network makes of a processor's speed, against one of 16 channels: the reference step
# with a U-Net, CPU, 2026-11-30.
SPEED_OF_WIDTH = {12: 0.8, 8: 0.6}
MAX_WIDTH = 320
TIMES_WIDTH = 16
# The finest voxel edge is raised by these factors, in turn, where time is too short.
COARSER = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)
# An organ keeps so many voxels along each axis, or what the scans have; no grid is coarser.
ORGAN_EDGE = 6
# The patch is so many times as long as the largest organ (this quantile over cases) along each
# axis, or as long as the scan.
COVERED_QUANTILE = 0.9
COVER = 1.5
# What no site's default limits leave: voxels of a patch.
MOST_VOXELS = 128**3
# And so much of the median scan along each axis, where any grid allows it.  In a few thousand
# patches a network does not learn what it never sees whole: hearts, 1,500 steps, patches of 96 x
# 96, DSC .69 with voxels of 2 mm and .82 with 3 mm (a prototype, one seed, validation cases).
SCAN_COVER = 0.75

# Views of a flat patch are turned in its plane alone, and there as far as this (Isensee): of forty
# hearts eleven lie on their side.
FLAT_TURN_DEG = 180.0

# Labelled patches that a site is to learn from over the whole study: what is planned for, and what
# has to be reached for a plan to be made at all.  A network wider than the narrowest is taken where
# it leaves time for more: hippocampus, 7.5 minutes of a core, width 8 and 4,400 patches DSC .877,
# width 16 and 1,400 patches .858 (one seed, validation cases).
PATCHES_WISHED = 3000
PATCHES_WIDER = 6000
PATCHES_LEAST = 1500
# Under so many labelled scans, at all sites together, a plan says that they are few.
FEW_LABELLED = 10
BATCH = 2  # small batches, many steps (Isensee)
MOST_BATCH = 8
# A larger batch is only taken where it leaves so many steps, and holds at most this share of all
# voxels of the training scans (Isensee: 5 %).
STEPS_BEFORE_BATCH = 4000
BATCH_SHARE = 0.05
# Steps between two averagings: fewer than a site's own limit lets leave, more drift apart.
LEAST_LOCAL_STEPS, MOST_LOCAL_STEPS = 10, 250
ROUNDS = 20
MINUTES_A_ROUND = 1.0  # of a simulation that is asked for nothing else
MEMORY = "4GiB"
# Share of a round's minutes that are steps: start, loading, scoring and transfer take the rest.
USABLE_TIME = 0.75
# Share of the memory given that a step may take by estimate.
USABLE_MEMORY = 0.9

# An organ is kept in one piece where it is so in this share of the cases of every site.
ONE_PIECE = 0.95
# Windows in air are left out where this share of all scans is wider than the body.
WIDER = 0.5
# Overlap of windows where time is short and where it is not.
SHORT_OVERLAP, LONG_OVERLAP = 0.25, 0.5
LONG_PREDICTION_S = 20.0  # a scan with LONG_OVERLAP
EVALUATIONS = 4  # of a study
