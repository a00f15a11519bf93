import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Circle
from PIL import Image

from lunaops import scan_figures
from lunaops.ct import read_ct
from lunaops.errors import InputError
from lunaops.figures import write_figure
from lunaops.geometry import Grid, xyz_from_irc

UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def a_scan(slices=11, direction=UPRIGHT):
    """A scan with one bright ball of 10 mm around (20, 30, z of the middle slice); and where it is."""
    grid = Grid((slices, 60, 60), (1.0, 1.0, 2.5), (-5.0, -7.0, -100.0), UPRIGHT)
    center = (20.0, 30.0, -100.0 + 2.5 * (slices // 2))
    points = xyz_from_irc(np.indices(grid.shape_irc).reshape(3, -1).T, grid)
    inside = (((points - center) ** 2).sum(axis=1) < 25).reshape(grid.shape_irc)
    hu = np.where(inside, 40, -850).astype(np.int16)
    if direction == FLIPPED:
        origin = (-5.0 + 59, -7.0 + 59, -100.0)
        return hu[:, ::-1, ::-1], Grid(grid.shape_irc, grid.spacing_xyz, origin, FLIPPED), center
    return hu, grid, center


def a_crop(direction=UPRIGHT, caption="caption"):
    planes = {
        "transverse": np.arange(48 * 48, dtype=np.int16).reshape(48, 48),
        "coronal": np.zeros((32, 48), dtype=np.int16),
        "sagittal": np.zeros((32, 48), dtype=np.int16),
    }
    return scan_figures.GalleryCrop(planes, Grid((90, 512, 512), (0.7, 0.7, 2.5), (0.0, 0.0, 0.0), direction), caption)


def test_a_gallery_shows_each_crop_as_three_upright_planes_on_one_scale():
    figure = scan_figures.gallery_figure([a_crop(), a_crop(FLIPPED), a_crop()], title="worst")
    assert len(figure.axes) == 9 and figure.get_suptitle() == "worst"
    first, flipped = figure.axes[0].images[0], figure.axes[3].images[0]
    np.testing.assert_array_equal(first.get_array()[::-1, ::-1], flipped.get_array())
    left, right, bottom, top = figure.axes[1].images[0].get_extent()
    assert (right - left, bottom - top) == pytest.approx((48 * 0.7, 32 * 2.5))  # millimetres, true aspect
    assert {axes.get_aspect() for axes in figure.axes} == {1.0}
    assert len({(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}) == 1


def test_letters_name_the_patients_sides():
    transverse, coronal, sagittal = scan_figures.gallery_figure([a_crop()], title="").axes
    assert [texts(axes)[:4] for axes in (transverse, coronal, sagittal)] == [list("APRL"), list("HFRL"), list("HFAP")]


def test_a_gallery_of_nothing_says_so(tmp_path):
    figure = scan_figures.gallery_figure([], title="worst")
    write_figure(figure, tmp_path / "none.png")
    assert "none" in texts(figure)


def test_an_oblique_crop_is_called_oblique():
    turn = np.radians(12)
    turned = ((np.cos(turn), -np.sin(turn), 0.0), (np.sin(turn), np.cos(turn), 0.0), (0.0, 0.0, 1.0))
    captions = [
        scan_figures.gallery_figure([a_crop(direction)], title="").subfigs[0].get_supxlabel()
        for direction in (turned, FLIPPED)
    ]
    assert captions == ["caption\noblique scan: planes along its voxels, 12° off the patient's axes", "caption"]


def test_the_ring_lies_on_the_nodule_in_every_plane_and_slice():
    hu, grid, center = a_scan()
    figure = scan_figures.scan_figure(hu, grid, center, diameter_mm=10.0, num_slices=5)
    transverse, coronal, sagittal, *slices = figure.axes
    assert [axes.get_title() for axes in (transverse, coronal, sagittal)] == ["transverse", "coronal", "sagittal"]
    assert [axes.get_title() for axes in slices] == [f"z {z} mm" for z in (-92.5, -90.0, -87.5, -85.0, -82.5)]
    for axes in figure.axes:
        rings = [patch for patch in axes.patches if isinstance(patch, Circle)]
        for ring in rings:
            assert ring.center == (0, 0)
            image = axes.images[0]
            left, right, bottom, top = image.get_extent()
            tall, wide = image.get_array().shape
            y, x = np.meshgrid(
                top + (np.arange(tall) + 0.5) * (bottom - top) / tall,
                left + (np.arange(wide) + 0.5) * (right - left) / wide,
                indexing="ij",
            )
            np.testing.assert_array_equal(image.get_array() > 0, x**2 + y**2 < ring.radius**2 - 1e-9)
    assert len(transverse.patches) == 1


def test_a_flipped_scan_gives_the_same_picture(tmp_path):
    for name, direction in (("upright", UPRIGHT), ("flipped", FLIPPED)):
        hu, grid, center = a_scan(direction=direction)
        write_figure(scan_figures.scan_figure(hu, grid, center, diameter_mm=10.0), tmp_path / name)
    assert (tmp_path / "upright").read_bytes() == (tmp_path / "flipped").read_bytes()


@pytest.mark.parametrize("corner_irc", [(0, 0, 0), (10.4, -0.4, 59.4)], ids=["first voxel", "outermost edge"])
def test_a_place_at_the_border_is_drawn(tmp_path, corner_irc):
    hu, grid, _ = a_scan()
    figure = scan_figures.scan_figure(hu, grid, xyz_from_irc(np.array(corner_irc), grid), diameter_mm=6.0)
    write_figure(figure, tmp_path / "border.png")
    assert sum("the scan\nends" in texts(axes) for axes in figure.axes) == 3


def test_a_scan_of_one_slice_is_drawn(tmp_path):
    hu, grid, center = a_scan(slices=1)
    write_figure(scan_figures.scan_figure(hu, grid, center, num_slices=3), tmp_path / "one.png")


def test_a_place_outside_the_scan_is_refused():
    hu, grid, _ = a_scan()
    with pytest.raises(InputError, match=r"\(20.0, 30.0, 99.0\) mm lies outside the scan"):
        scan_figures.scan_figure(hu, grid, (20.0, 30.0, 99.0))


def test_in_a_real_slab_the_annotated_nodule_fills_its_ring(slabs, tmp_path):
    path = next(slabs.glob("subset1/*.mhd"))
    ct = read_ct(path, (-1000, 1000))
    annotations = pd.read_csv(slabs.parent / "luna16-labels" / "annotations.csv")
    top = ct.grid.origin_xyz[2] + ct.grid.spacing_xyz[2] * ct.grid.shape_irc[0]
    here = annotations[
        (annotations["seriesuid"] == path.stem) & annotations["coordZ"].between(ct.grid.origin_xyz[2], top)
    ]
    nodule = here.iloc[0]
    center = nodule[["coordX", "coordY", "coordZ"]].to_numpy(dtype=float)
    figure = scan_figures.scan_figure(ct.hu, ct.grid, center, diameter_mm=nodule["diameter_mm"])
    write_figure(figure, tmp_path / "slab.png")
    assert Image.open(tmp_path / "slab.png").size[0] > 1000
    for axes in figure.axes[:3]:
        image, ring = axes.images[0], axes.patches[0]
        left, right, bottom, top_mm = image.get_extent()
        tall, wide = image.get_array().shape
        down, across = -top_mm / (bottom - top_mm) * tall, -left / (right - left) * wide
        reach = [0.5 * ring.radius / (side / count) for side, count in ((bottom - top_mm, tall), (right - left, wide))]
        inner = image.get_array()[
            int(down - reach[0]) : int(down + reach[0]) + 1, int(across - reach[1]) : int(across + reach[1]) + 1
        ]
        assert inner.mean() > -150  # solid, in lung of -850
