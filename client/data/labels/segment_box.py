"""Segmentations that are stored as the box around their segments, as 3D Slicer does."""

import numpy as np
import SimpleITK as sitk

from client.data.errors import ScanError
from client.data.files.geometry import put_on_grid, same_grid_error


def unboxed(label: sitk.Image, scan: sitk.Image, *, location: str) -> sitk.Image:
    """A box of the scan's voxels, put where it is in the scan; outside of it there is nothing.

    Its axes may be in another order or sense than the scan's, as of a scan that was converted.

    Args:
        label: Numbers of segments, or several layers of them.
        scan: What they were drawn on.
        location: How a message begins.

    Raises:
        ScanError: Its voxels are others than the scan's, or it has segments outside the scan.
    """
    if same_grid_error(label, scan) is None:
        return label
    label = _turned(label, scan)
    first = scan.TransformPhysicalPointToContinuousIndex(label.GetOrigin())
    start = [round(index) for index in first]
    box = sitk.Image(label.GetSize(), sitk.sitkUInt8)
    box.SetSpacing(scan.GetSpacing())
    box.SetDirection(scan.GetDirection())
    box.SetOrigin(scan.TransformContinuousIndexToPhysicalPoint([float(index) for index in start]))
    put_on_grid(label, box, location=location)
    voxels = sitk.GetArrayViewFromImage(label)
    size = label.GetSize()
    kept, placed = [], []
    for at, length, whole in zip(start, size, scan.GetSize(), strict=True):
        low, high = max(0, -at), min(length, whole - at)
        kept.append(slice(low, max(low, high)))
        placed.append(slice(at + low, max(at + low, at + high)))
    inside = voxels[tuple(kept[::-1])]
    if outside := np.count_nonzero(voxels) - np.count_nonzero(inside):
        raise ScanError(
            location,
            f"is not on the image grid: {outside} of its voxels lie outside the scan; put it to its"
            " own scan",
            rule="grid",
        )
    whole_grid = np.zeros((*scan.GetSize()[::-1], *voxels.shape[3:]), voxels.dtype)
    whole_grid[tuple(placed[::-1])] = inside
    image = sitk.GetImageFromArray(whole_grid, isVector=voxels.ndim > 3)
    image.CopyInformation(scan)
    return image


def _turned(label: sitk.Image, scan: sitk.Image) -> sitk.Image:
    """The same voxels at the same places, by the scan's axes where these are the label's too."""
    axes = np.reshape(scan.GetDirection(), (3, 3)).T @ np.reshape(label.GetDirection(), (3, 3))
    order = np.abs(axes).argmax(axis=1)
    back = [bool(axes[axis, order[axis]] < 0) for axis in range(3)]
    if sorted(order) != [0, 1, 2] or (list(order) == [0, 1, 2] and not any(back)):
        return label
    return sitk.Flip(sitk.PermuteAxes(label, order.tolist()), back)
