"""Fingerprints of sites that there are not."""

from protocol.planning.fingerprint import Fingerprint, OrganFingerprint, Share, Spread

Triple = tuple[float, float, float]


def flat(value: float) -> Spread:
    """Twenty cases alike."""
    return Spread(cases=20, means=(value,) * 5)


def _flat(values: Triple) -> tuple[Spread, Spread, Spread]:
    x, y, z = map(flat, values)
    return (x, y, z)


def made_fingerprint(
    *,
    spacing_mm: Triple = (1.0, 1.0, 1.0),
    size: Triple = (40.0, 56.0, 40.0),
    organ_mm: Triple = (20.0, 30.0, 20.0),
    gigamacs_s: float = 30.0,
    memory_gib: float = 8.0,
    unlabelled: int = 0,
    pieces: int = 20,
    wider: int = 0,
) -> Fingerprint:
    """A site of twenty labelled cases that are all alike."""
    x, y, z = (n * mm for n, mm in zip(size, spacing_mm, strict=True))
    return Fingerprint(
        labelled=20,
        unlabelled=unlabelled,
        spacing_mm=_flat(spacing_mm),
        size_voxels=_flat(size),
        extent_mm=_flat((x, y, z)),
        intensity=_flat((1.0, 2.0, 3.0)),
        wider_than_body=Share(cases=20, holding=wider),
        organs={
            "ball": OrganFingerprint(
                volume_ml=flat(10.0),
                extent_mm=_flat(organ_mm),
                one_component=Share(cases=20, holding=pieces),
            )
        },
        step_seconds=30.0 / gigamacs_s,
        step_gigamacs=30.0,
        memory_gib=memory_gib,
    )
