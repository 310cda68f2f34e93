"""A label map on any grid: written, read, put on the study's grid and brought back."""

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from asdnet_models.geometry import usable_geometry
from asdnet_models.preprocessing import preprocess_label, probabilities_to_grid
from client.data.case import Case
from client.data.files.image_io import write_label_map

EXTENT_MM = 36.0
ORGANS = {"ball": 4}
edge = st.floats(0.5, 4.0)
edges = st.tuples(edge, edge, edge)


@st.composite
def grids(draw: st.DrawFn) -> sitk.Image:
    """Any axes, flipped, turned by up to 40 degrees, anywhere; about 36 mm along each edge.

    As the site's readers give a scan: a cosine under 1e-12 is 0.
    """
    spacing_mm = draw(edges)
    size = [int(np.ceil(EXTENT_MM / mm)) + draw(st.integers(0, 3)) for mm in spacing_mm]
    axes = np.eye(3)[:, draw(st.permutations(range(3)))]
    axes = axes * [draw(st.sampled_from((-1, 1))) for _ in range(3)]
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    turn = [draw(st.floats(-0.4, 0.4)) for _ in range(3)]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(spacing_mm)
    grid.SetOrigin([draw(st.floats(-300, 300)) for _ in range(3)])
    grid.SetDirection((Rotation.from_rotvec(turn).as_matrix() @ axes).ravel().tolist())
    return usable_geometry(grid)


def depth_mm(grid: sitk.Image, shift: tuple[float, ...], radius_mm: float) -> NDArray[Any]:
    """Signed distance to a sphere near the grid's middle, (Z, Y, X), negative inside."""
    spacing, size = np.array(grid.GetSpacing()), np.array(grid.GetSize())
    places = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1) * spacing
    distance = np.linalg.norm(places - size * spacing / 2 - np.array(shift), axis=-1)
    return np.ascontiguousarray((distance - radius_mm).transpose(2, 1, 0))


def label_on(grid: sitk.Image, depth: NDArray[Any]) -> sitk.Image:
    label = sitk.GetImageFromArray(np.where(depth < 0, ORGANS["ball"], 0).astype(np.uint8))
    label.CopyInformation(grid)
    return label


def underflowing() -> sitk.Image:
    """A direction that was drawn once, whose inverse ITK gives as NaN: the label was empty."""
    grid = sitk.Image((20, 16, 24), sitk.sitkUInt8)
    grid.SetSpacing((2.0, 2.5, 1.5))
    grid.SetDirection((1.6e-303, 1, -9e-304, 5.9e-303, 9e-304, 1, -1, 1.6e-303, 5.9e-303))
    return usable_geometry(grid)


@example(
    grid=underflowing(),
    study_mm=(2.0, 2.0, 2.0),
    shift=(0.0, 1.0, -1.0),
    radius_mm=9.0,
    suffix=".mha",
)
@given(
    grid=grids(),
    study_mm=edges,
    shift=st.tuples(*[st.floats(-3, 3)] * 3),
    radius_mm=st.floats(8, 13),
    suffix=st.sampled_from((".nii.gz", ".mha", ".nrrd")),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_label_map_comes_back_within_half_a_voxel(
    tmp_path: Path,
    grid: sitk.Image,
    study_mm: tuple[float, float, float],
    shift: tuple[float, float, float],
    radius_mm: float,
    suffix: str,
) -> None:
    depth = depth_mm(grid, shift, radius_mm)
    label = label_on(grid, depth)
    path = tmp_path / f"label{suffix}"
    write_label_map(label, grid, path)
    case = Case(name="c", part="labelled", image=path, label=path)
    read = case.read_label(grid, ORGANS)
    array = sitk.GetArrayFromImage(label)
    # Written and read, nothing has changed but for NIfTI's rounded geometry, which is the scan's.
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(read), array)
    on_study = preprocess_label(read, study_mm)
    assert np.allclose(on_study.GetSpacing(), study_mm) or np.allclose(
        on_study.GetSpacing(), sitk.DICOMOrient(read, "LPS").GetSpacing(), atol=1e-3
    )
    inside = sitk.GetArrayFromImage(on_study).transpose(2, 1, 0) == ORGANS["ball"]
    back = probabilities_to_grid(np.stack([~inside, inside]).astype(np.float32), on_study, grid)
    # A surface may move by half a voxel of the study's grid, and is then rounded to the scan's.
    scan_mm = np.array(sitk.DICOMOrient(grid, "LPS").GetSpacing())
    changed = (back == 1) != (array > 0)
    assert np.abs(depth[changed]).max(initial=0) <= np.linalg.norm(scan_mm + study_mm) / 2
    places = np.argwhere(array > 0).mean(0), np.argwhere(back == 1).mean(0)
    moved_mm = np.abs(places[0] - places[1]) * np.array(grid.GetSpacing()[::-1])
    assert (moved_mm <= max(*scan_mm, *study_mm) / 2).all()
