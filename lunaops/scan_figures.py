"""Pictures of scans and crops, hung as a radiologist wants them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from lunaops.errors import InputError
from lunaops.figures import GREY, ORANGE, YELLOW, styled
from lunaops.geometry import Grid, irc_from_xyz, is_inside
from lunaops.views import EDGES, Hanging, View, crop_views, hanging, orthogonal_views, transverse_views

LUNG_HU = (-1350, 150)  # the usual lung window: level -600, width 1500
OBLIQUE_DEGREES = 1.0  # less is not seen
CROP_FIELD_MM = 36.0  # what 48 columns of 0.75 mm cover: every crop of a gallery on one scale
SCAN_FIELD_MM = 64.0


@dataclass(frozen=True, eq=False)
class GalleryCrop:
    """A crop's three central planes as predict stores them (R, C), (I, C), (I, R) in HU, and what to write below."""

    planes: Mapping[str, NDArray[np.int16]]
    grid: Grid
    caption: str


@styled
def gallery_figure(crops: Sequence[GalleryCrop], *, title: str) -> Figure:
    """Crops on one scale, each as its transverse, coronal and sagittal plane in the lung window, hung upright.

    Marks on the frames point at the candidate. Without crops the figure says so.
    """
    columns = 2 if len(crops) > 1 else 1
    rows = max(1, math.ceil(len(crops) / columns))
    figure = Figure(figsize=(6.2 * columns, 2.75 * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=14)
    if not crops:
        figure.text(0.5, 0.4, "none", ha="center", fontsize=14, color=GREY)
        return figure
    for cell, crop in zip(figure.subfigures(rows, columns, squeeze=False).flat, crops, strict=False):
        how = hanging(crop.grid.direction)
        views = crop_views(crop.planes, crop.grid.spacing_xyz, how)
        for axes, view in zip(cell.subplots(1, 3), views.values(), strict=True):
            _show(axes, view)
            _limit(axes, CROP_FIELD_MM)
            _point_at_center(axes)
        _scale_bar(cell.axes[0], CROP_FIELD_MM)
        cell.supxlabel(crop.caption + _oblique_note(how, "\n"), fontsize=10)
    return figure


@styled
def scan_figure(
    hu: NDArray[np.int16],
    grid: Grid,
    center_xyz: ArrayLike,
    *,
    diameter_mm: float = 0.0,
    title: str = "",
    num_slices: int = 7,
) -> Figure:
    """A place in a scan: three whole planes through it, then transverse slices around it, magnified.

    A ring shows the annotated diameter where the slice cuts it; of an unknown one (0) the place alone is marked.
    The slices follow one another from feet to head, with steps wide enough to pass the whole nodule. Where the scan
    ends, the row says so. Raises InputError if the place lies outside the scan.
    """
    center_irc = irc_from_xyz(np.asarray(center_xyz, dtype=np.float64), grid)
    if not is_inside(center_irc[None], grid)[0]:
        place = ", ".join(f"{value:.1f}" for value in np.asarray(center_xyz))
        raise InputError(f"({place}) mm lies outside the scan; its voxels go up to index, row, column {grid.shape_irc}")
    how = hanging(grid.direction)
    planes = orthogonal_views(hu, center_irc, grid.spacing_xyz, how)
    offsets = _slice_offsets(diameter_mm, planes["coronal"].pixel_mm[0], num_slices)
    slices = transverse_views(hu, center_irc, grid.spacing_xyz, how, offsets)
    figure = Figure(figsize=(14.0, 8.2), layout="constrained")
    figure.suptitle(title + _oblique_note(how, "  "), fontsize=14)
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.3, 1]).flat
    for axes, view in zip(above.subplots(1, 3), planes.values(), strict=True):
        _show(axes, view)
        _cross_hair(axes, view, max(diameter_mm, 8.0))
        _ring(axes, view, diameter_mm)
        axes.set_title(view.plane, pad=16)
    for axes, slice_view in zip(below.subplots(1, num_slices), slices, strict=True):
        _slice_panel(axes, slice_view, float(np.asarray(center_xyz)[2]), diameter_mm)
    _scale_bar(below.axes[num_slices // 2], SCAN_FIELD_MM)
    return figure


def _slice_panel(axes: Axes, view: View | None, center_z_mm: float, diameter_mm: float) -> None:
    if view is None:
        axes.set_facecolor("#EEEEEE")
        axes.text(0.5, 0.5, "the scan\nends", transform=axes.transAxes, ha="center", va="center", color=GREY)
        _bare(axes)
        axes.set_box_aspect(1)
        return
    _show(axes, view, edges=False)
    _limit(axes, SCAN_FIELD_MM)
    _point_at_center(axes)
    _ring(axes, view, diameter_mm)
    axes.set_title(f"z {center_z_mm + view.depth_mm:.1f} mm", fontsize=11)


def _slice_offsets(diameter_mm: float, spacing_mm: float, num_slices: int) -> list[int]:
    """Steps in slices around 0, such that the row covers the diameter and a little more."""
    middle = num_slices // 2
    step = max(1, round(1.25 * diameter_mm / spacing_mm / max(1, num_slices - 1)))
    return [step * (place - middle) for place in range(num_slices)]


def _show(axes: Axes, view: View, *, edges: bool = True) -> None:
    low, high = LUNG_HU
    axes.imshow(view.image, cmap="gray", vmin=low, vmax=high, extent=view.extent_mm, interpolation="nearest")
    _bare(axes)
    if edges:
        for letter, (x, y) in zip(EDGES[view.plane], [(0.5, 1), (0.5, 0), (0, 0.5), (1, 0.5)], strict=True):
            shift = (12 * x - 6, 14 * y - 7)
            axes.annotate(
                letter, (x, y), shift, xycoords="axes fraction", textcoords="offset points",
                fontsize=9, color="#555555", ha="center", va="center",
            )  # fmt: skip


def _bare(axes: Axes) -> None:
    for part in (axes.xaxis, axes.yaxis, axes.spines[:]):
        part.set_visible(False)


def _limit(axes: Axes, field_mm: float) -> None:
    """A square of this side around the centre; black where the crop or scan does not reach."""
    axes.set_facecolor("black")
    axes.set_xlim(-field_mm / 2, field_mm / 2)
    axes.set_ylim(field_mm / 2, -field_mm / 2)


def _point_at_center(axes: Axes) -> None:
    """A mark on the middle of each edge, as one line: a gallery has dozens of axes."""
    across, middle = [0, 0.06, math.nan, 0.94, 1, math.nan], [0.5] * 6
    axes.plot(across + middle, middle + across, color=YELLOW, linewidth=1, transform=axes.transAxes)


def _cross_hair(axes: Axes, view: View, gap_mm: float) -> None:
    """Lines through the centre from edge to edge, open around it."""
    left, right, bottom, top = view.extent_mm
    across = [left, max(left, -gap_mm), math.nan, min(right, gap_mm), right]
    along = [top, max(top, -gap_mm), math.nan, min(bottom, gap_mm), bottom]
    axes.plot(across, [0] * 5, color=YELLOW, linewidth=0.7)
    axes.plot([0] * 5, along, color=YELLOW, linewidth=0.7)
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _ring(axes: Axes, view: View, diameter_mm: float) -> None:
    """The circle in which this plane cuts a sphere of this diameter, if it does."""
    radius_squared = (diameter_mm / 2) ** 2 - view.depth_mm**2
    if radius_squared > 0:
        axes.add_patch(Circle((0, 0), math.sqrt(radius_squared), fill=False, color=ORANGE, linewidth=1.3))


def _scale_bar(axes: Axes, field_mm: float) -> None:
    edge = field_mm / 2
    outline = [withStroke(linewidth=4, foreground="black")]  # readable on soft tissue too
    axes.plot([-0.9 * edge, -0.9 * edge + 10], [0.86 * edge] * 2, color="white", linewidth=2, path_effects=outline)
    axes.text(-0.9 * edge, 0.82 * edge, "10 mm", color="white", fontsize=9, va="bottom", path_effects=outline)


def _oblique_note(how: Hanging, separator: str) -> str:
    if how.degrees_off < OBLIQUE_DEGREES:
        return ""
    return f"{separator}oblique scan: planes along its voxels, {how.degrees_off:.0f}° off the patient's axes"
