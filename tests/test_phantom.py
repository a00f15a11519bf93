"""The embedded data set: equal bytes, LUNA16's tables and geometry, labels that agree with the voxels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from lunaops.errors import InputError
from lunaops.params import PhantomParams, read_params
from lunaops.phantom.lesions import Spot, draw_nodule
from lunaops.phantom.rendering import render
from lunaops.phantom.scans import Order, ScanPlan, plan_orders, plan_scan
from lunaops.sources.metaimage import write_metaimage
from lunaops.sources.phantom import write_part

pytestmark = pytest.mark.slow

DEFAULTS = read_params(Path(__file__).parents[1] / "params.yaml").phantom
TINY = DEFAULTS.model_copy(update={"subsets": 1, "scans_per_subset": 2, "max_megavoxels": 0.5, "slices_mm": (2.5,)})
LABELS = ["annotations.csv", "annotations_excluded.csv", "annotations_with_malignancy.csv", "candidates.csv"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("phantom")
    for part in ("labels", "subset0"):
        write_part(part, raw / part, TINY, workers=1)
    return raw


@pytest.fixture(scope="module")
def plans() -> list[ScanPlan]:
    """Ten scans, one of them flipped, as they are in the default data set."""
    return [plan_scan(order, DEFAULTS) for order in plan_orders(DEFAULTS)[:10]]


def test_same_seed_gives_same_bytes_with_two_processes_and_parts_in_another_order(tiny: Path, tmp_path: Path) -> None:
    for part in ("subset0", "labels"):
        write_part(part, tmp_path / part, TINY, workers=2)
    assert contents(tmp_path) == contents(tiny)


def test_another_seed_gives_other_scans(tiny: Path) -> None:
    other = plan_orders(TINY.model_copy(update={"seed": TINY.seed + 1}))
    known = {path.stem for path in (tiny / "subset0").glob("*.mhd")}
    assert len(known) == 2
    assert known.isdisjoint(order.series_uid for order in other)


def test_labels_are_lunas_files(tiny: Path) -> None:
    assert sorted(path.name for path in (tiny / "labels").iterdir()) == sorted([*LABELS, "seriesuids.csv"])
    headers = {name: (tiny / "labels" / name).read_text().splitlines()[0] for name in LABELS}
    assert headers == {
        "annotations.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm",
        "annotations_excluded.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm",
        "annotations_with_malignancy.csv": "seriesuid,coordX,coordY,coordZ,diameter_mm,mal_bool",
        "candidates.csv": "seriesuid,coordX,coordY,coordZ,class",
    }
    uids = (tiny / "labels" / "seriesuids.csv").read_text().splitlines()
    assert uids == sorted(path.stem for path in (tiny / "subset0").glob("*.mhd"))


def test_coordinates_have_at_most_six_decimals(tiny: Path) -> None:
    rows = (tiny / "labels" / "candidates.csv").read_text().splitlines()[1:]
    assert rows
    assert all(len(cell.partition(".")[2]) <= 6 for row in rows for cell in row.split(",")[1:])


def test_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"phantom has no subset1.*phantom\.subsets"):
        write_part("subset1", tmp_path / "subset1", TINY, workers=1)


def test_series_uids_are_dicom_style_and_unique() -> None:
    uids = [order.series_uid for order in plan_orders(DEFAULTS)]
    assert len(set(uids)) == len(uids)
    assert all(len(uid) <= 64 and uid.startswith("1.3.6.1.4.1.14519.5.2.1.") for uid in uids)
    assert all(not part.startswith("0") for uid in uids for part in uid.split("."))


def test_a_third_of_the_scans_has_no_nodules_and_a_tenth_is_flipped() -> None:
    orders = plan_orders(DEFAULTS)
    assert len(orders) == 50
    assert sum(not order.diameters_mm for order in orders) == 17
    assert sum(order.is_flipped for order in orders) == 5
    assert {order.outside_hu for order in orders} == {None, -2048, -3024}


def test_diameters_follow_luna16_in_every_subset() -> None:
    orders = plan_orders(DEFAULTS)
    for subset in range(DEFAULTS.subsets):
        diameters = [d for order in orders if order.subset == subset for d in order.diameters_mm]
        assert len(diameters) >= (20 if subset == 4 else 18)  # subset4 is the test split
        assert 5.5 < np.median(diameters) < 7.5
        assert 3.25 <= min(diameters) < 4.4
        assert 14 < max(diameters) <= 32.27


def test_each_subset_has_one_nodule_without_candidates() -> None:
    for subset in range(DEFAULTS.subsets):
        orders = [order for order in plan_orders(DEFAULTS) if order.subset == subset]
        assert [mark for order in orders for mark in order.marks_per_nodule].count(0) == 1


def test_geometry_is_that_of_real_scans(plans: list[ScanPlan]) -> None:
    spacings = np.array([plan.lattice.spacing_xyz for plan in plans])
    assert (spacings[:, :2] >= 0.6).all() and (spacings[:, :2] <= 0.9).all()
    assert (spacings[:, 2] >= 0.9).all() and (spacings[:, 2] <= 2.5).all()
    assert all(np.abs(plan.lattice.origin_xyz).min() > 0 for plan in plans)
    assert max(2 * np.prod(plan.lattice.shape_zyx) for plan in plans) <= 2e6 * DEFAULTS.max_megavoxels


def test_every_ordered_nodule_is_placed(plans: list[ScanPlan]) -> None:
    for plan in plans:
        assert sorted(nodule.diameter_mm for nodule in plan.nodules) == sorted(plan.order.diameters_mm)


def test_nodules_of_one_size_are_as_many_as_ordered() -> None:
    one_size = DEFAULTS.model_copy(update={"diameter_deciles_mm": (5.0, 5.0)})
    order = max(plan_orders(one_size), key=lambda order: len(order.diameters_mm))
    plan = plan_scan(order, one_size)
    assert len(plan.nodules) == len(order.diameters_mm) > 1
    assert plan.is_nodule.sum() == sum(order.marks_per_nodule)


def test_every_mark_on_a_nodule_is_within_half_its_radius_and_no_other_touches_one(plans: list[ScanPlan]) -> None:
    for plan in filter(lambda plan: plan.nodules, plans):
        centres = np.array([nodule.centre_xyz for nodule in plan.nodules])
        radii = np.array([nodule.diameter_mm / 2 for nodule in plan.nodules])
        apart = np.linalg.norm(plan.candidates_xyz[:, None] - centres[None], axis=2) / radii
        assert (apart[plan.is_nodule].min(axis=1) <= 0.5).all()
        assert (apart[~plan.is_nodule].min(axis=1) > 1).all()
        assert plan.is_nodule.sum() == sum(plan.order.marks_per_nodule)


def test_candidates_lie_inside_their_scan(plans: list[ScanPlan]) -> None:
    for plan in plans:
        assert len(plan.candidates_xyz) >= DEFAULTS.candidates_per_scan[0]
        assert (plan.candidates_xyz > plan.lattice.low_xyz).all()
        assert (plan.candidates_xyz < plan.lattice.high_xyz).all()


def test_malignancy_grows_with_size() -> None:
    def share_malignant(diameter_mm: float) -> float:
        rng = np.random.default_rng(1)
        spot = Spot(np.zeros(3), np.zeros(3), 0.0)
        return float(np.mean([draw_nodule(rng, spot, diameter_mm, 0.2).is_malignant for _ in range(300)]))

    assert share_malignant(5) < 0.15
    assert 0.3 < share_malignant(9) < 0.7
    assert share_malignant(16) > 0.9


def first(orders: list[Order], *, is_flipped: bool) -> Order:
    return next(order for order in orders if order.is_flipped == is_flipped and order.diameters_mm)


@pytest.mark.parametrize("is_flipped", [False, True])
def test_an_annotated_solid_nodule_is_soft_tissue_in_less_dense_lung(tmp_path: Path, is_flipped: bool) -> None:
    params: PhantomParams = DEFAULTS.model_copy(
        update={"share_flipped": 0.5, "subtle_share": 0.0, "attached_share": 0.0, "max_megavoxels": 1.5}
    )
    plan = plan_scan(first(plan_orders(params), is_flipped=is_flipped), params)
    write_metaimage(tmp_path / "scan.mhd", render(plan, params.seed), plan.lattice.grid)
    image = sitk.ReadImage(str(tmp_path / "scan.mhd"))
    assert image.GetDirection()[0] == (-1.0 if is_flipped else 1.0)
    hu = sitk.GetArrayFromImage(image)
    solid = [nodule for nodule in plan.nodules if not any(blob.is_hollow for blob in nodule.blobs)]
    assert solid
    for nodule in solid:
        centre = plan.patient_xyz(nodule.centre_xyz)
        column, row, index = image.TransformPhysicalPointToIndex(centre.tolist())
        assert hu[index, row, column] > -450  # a small one shares its slice with lung
        ring = [
            centre + 1.4 * nodule.diameter_mm * np.array([np.cos(a), np.sin(a), 0]) / 2 for a in np.arange(0, 6, 0.5)
        ]
        around = [image.TransformPhysicalPointToIndex(point.tolist()) for point in ring]
        assert np.median([hu[i, r, c] for c, r, i in around]) < hu[index, row, column] - 250


def test_beyond_the_field_of_view_is_the_scanners_padding(plans: list[ScanPlan]) -> None:
    plan = next(plan for plan in plans if plan.order.outside_hu is not None)
    hu = render(plan, DEFAULTS.seed)
    assert hu.dtype == np.dtype("<i2")
    assert (hu[:, 0, 0] == plan.order.outside_hu).all()
    middle = hu.shape[1] // 2, hu.shape[2] // 2
    assert (hu[:, middle[0], middle[1]] > -1025).all()


def test_excluded_findings_are_marked_but_no_nodule(plans: list[ScanPlan]) -> None:
    excluded = [finding for plan in plans for finding in plan.excluded]
    assert excluded
    assert all(finding.annotated_mm == -1 for finding in excluded)
    marked = pd.Series(
        [
            bool((np.linalg.norm(plan.candidates_xyz - finding.centre_xyz, axis=1) < 3).any())
            for plan in plans
            for finding in plan.excluded
        ]
    )
    assert marked.any()
