"""The plan of a data set and of each of its scans: geometry, content, labels; no voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lunaops.geometry import Grid
from lunaops.params import PhantomParams
from lunaops.phantom.anatomy import BOTTOM_MM, TOP_MM, Thorax, plan_thorax
from lunaops.phantom.fields import Array
from lunaops.phantom.findings import (
    Patient,
    Placing,
    Window,
    open_lumens,
    place_look_alikes,
    place_nodules,
)
from lunaops.phantom.lesions import Blob, Lesion
from lunaops.phantom.marks import mark_nodules, mark_others
from lunaops.phantom.vessels import Tubes, bronchi_beside, grow_tree, trachea, twigs

UID_ROOT = "1.3.6.1.4.1.14519.5.2.1.1616.2016."  # LUNA16's series ids, too, end in thirty digits of no meaning
ARTERY_TIPS, VEIN_TIPS, TWIGS = 330, 260, 700  # per lung and tree; they give the vessel density of real lungs
EXTRA_MARK_MM = 6.0  # a nodule has one more mark for every so many millimetres over 8
EXCLUDED_SHARE = {"micronodule": 1.0, "scar": 0.4, "patch": 0.4, "plug": 0.2, "plaque": 0.15}  # listed as excluded


@dataclass(frozen=True)
class Order:
    """What the data set wants of one scan, so that the set as a whole has the right shares and sizes."""

    index: int
    subset: int
    series_uid: str
    diameters_mm: tuple[float, ...]
    marks_per_nodule: tuple[int, ...]
    is_flipped: bool
    outside_hu: int | None  # beyond the scanner's circular field of view; None: the scan knows none


@dataclass(frozen=True)
class Lattice:
    """The voxels: array order z, y, x; positions in the thorax's frame, and its shift to patient coordinates [mm]."""

    shape_zyx: tuple[int, int, int]
    spacing_xyz: Array
    low_xyz: Array  # of the voxel with the least x, y, z
    shift_xyz: Array
    is_flipped: bool

    @property
    def high_xyz(self) -> Array:
        """Position of the voxel with the greatest x, y, z."""
        return np.asarray(self.low_xyz + self.spacing_xyz * (np.array(self.shape_zyx[::-1]) - 1))

    @property
    def origin_xyz(self) -> Array:
        """Patient coordinates of the first voxel as stored; a flipped scan begins at the greatest x and y."""
        corner = self.low_xyz.copy()
        if self.is_flipped:
            corner[:2] = self.high_xyz[:2]
        return np.asarray(corner + self.shift_xyz)

    @property
    def grid(self) -> Grid:
        """The scan's grid as stored, its millimetres with six decimals."""
        turn = -1.0 if self.is_flipped else 1.0
        spacing, origin = (
            (round(float(x), 6), round(float(y), 6), round(float(z), 6))
            for x, y, z in (self.spacing_xyz, self.origin_xyz)
        )
        return Grid(self.shape_zyx, spacing, origin, ((turn, 0.0, 0.0), (0.0, turn, 0.0), (0.0, 0.0, 1.0)))


@dataclass(frozen=True)
class ScanPlan:
    """Everything about one scan but its voxels; positions in the thorax's frame."""

    order: Order
    lattice: Lattice
    thorax: Thorax
    tubes: Tubes
    lumens: Tubes
    blobs: tuple[Blob, ...]
    nodules: tuple[Lesion, ...]
    excluded: tuple[Lesion, ...]
    candidates_xyz: Array
    is_nodule: Array
    noise_hu: float
    blur_mm: float

    def patient_xyz(self, points_xyz: Array) -> Array:
        """Patient coordinates, as the labels give them, rounded to what the CSV files hold."""
        return np.asarray(np.round(np.asarray(points_xyz) + self.lattice.shift_xyz, 6))


def plan_orders(params: PhantomParams) -> list[Order]:
    """The whole data set's orders, scan by scan; sizes, shares and numbers are spread evenly over the subsets."""
    orders = []
    for subset in range(params.subsets):
        rng = np.random.default_rng([params.seed, subset, 0])
        count = params.scans_per_subset
        numbers = _nodules_per_scan(rng, params, subset)
        sizes = _diameters(rng, params, sum(numbers))
        marks = rng.integers(params.marks_per_nodule[0], params.marks_per_nodule[1] + 1, size=len(sizes))
        marks += np.clip((sizes - 8) // EXTRA_MARK_MM, 0, None).astype(int)
        if len(sizes) > 8:
            marks[rng.integers(len(sizes))] = 0
        is_flipped = _share_of(rng, count, params.share_flipped, subset)
        outside = np.where(_share_of(rng, count, 0.5, subset), rng.choice([-2048, -3024], size=count), 0)
        ends = np.cumsum([0, *numbers])
        for scan in range(count):
            part = slice(ends[scan], ends[scan + 1])
            orders.append(
                Order(
                    index=subset * count + scan,
                    subset=subset,
                    series_uid=UID_ROOT + "1" + "".join(str(d) for d in rng.integers(0, 10, 29)),
                    diameters_mm=tuple(sizes[part].tolist()),
                    marks_per_nodule=tuple(marks[part].tolist()),
                    is_flipped=bool(is_flipped[scan]),
                    outside_hu=int(outside[scan]) or None,
                )
            )
    return orders


def _share_of(rng: np.random.Generator, count: int, share: float, subset: int) -> Array:
    """A random choice of so many of a subset's scans that the running total over the subsets has the share."""
    wanted = round((subset + 1) * count * share) - round(subset * count * share)
    return np.asarray(rng.permutation(count) < wanted)


def _nodules_per_scan(rng: np.random.Generator, params: PhantomParams, subset: int) -> list[int]:
    without = _share_of(rng, params.scans_per_subset, params.share_without_nodules, subset)
    low, high = params.nodules_per_scan
    cycle = low + (np.arange(len(without)) + int(rng.integers(high - low + 1))) % (high - low + 1)
    numbers = np.where(without, 0, rng.permutation(cycle))
    return [int(n) for n in numbers]


def _diameters(rng: np.random.Generator, params: PhantomParams, count: int) -> Array:
    """Diameters by the table of deciles, one from each of `count` equal shares of the distribution, shuffled."""
    quantile = (rng.permutation(count) + rng.uniform(0, 1, count)) / max(count, 1)
    table = params.diameter_deciles_mm
    return np.asarray(np.round(np.exp(np.interp(quantile, np.linspace(0, 1, len(table)), np.log(table))), 6))


def plan_scan(order: Order, params: PhantomParams) -> ScanPlan:
    """Draw one scan. Depends on the seed and the scan's order only, not on which scans were planned before."""
    rng = np.random.default_rng([params.seed, order.subset, order.index + 1])
    patient, fine = _plan_patient(rng)
    lattice = _lattice(rng, params, order, patient.thorax)
    window = Window(lattice.low_xyz, lattice.high_xyz)
    placing = Placing(window)
    nodules = place_nodules(rng, patient, placing, order.diameters_mm, params.attached_share, params.subtle_share)
    number = int(rng.integers(params.candidates_per_scan[0], params.candidates_per_scan[1] + 1))
    others = place_look_alikes(rng, patient, placing, round(number * params.look_alike_share))
    on_nodules, elsewhere = _marks(rng, order, patient, nodules, others, window, number)
    found = [*nodules.values(), *others]
    walls = [bronchi.wall for bronchi in patient.bronchi]
    return ScanPlan(
        order=order,
        lattice=lattice,
        thorax=patient.thorax,
        tubes=Tubes.joined([*(t.tubes() for t in patient.trees), *fine, *walls, *(f.strands for f in found)]),
        lumens=Tubes.joined([trachea(patient.thorax.hila_xyz), open_lumens(patient, others)]),
        blobs=tuple(blob for lesion in found for blob in lesion.blobs),
        nodules=tuple(nodules.values()),
        excluded=tuple(lesion for lesion in others if rng.random() < EXCLUDED_SHARE.get(lesion.kind, 0.0)),
        candidates_xyz=np.concatenate([on_nodules, elsewhere]),
        is_nodule=np.repeat([True, False], [len(on_nodules), len(elsewhere)]),
        noise_hu=float(rng.uniform(*params.noise_hu)),
        blur_mm=float(rng.uniform(*params.blur_mm)),
    )


def _marks(
    rng: np.random.Generator,
    order: Order,
    patient: Patient,
    nodules: dict[int, Lesion],
    others: Sequence[Lesion],
    window: Window,
    number: int,
) -> tuple[Array, Array]:
    wanted = [order.marks_per_nodule[number] for number in nodules]
    on_nodules = mark_nodules(rng, list(nodules.values()), wanted)
    left = max(number - len(on_nodules), 0)
    return on_nodules, mark_others(rng, patient, others, list(nodules.values()), window, left)


def _lattice(rng: np.random.Generator, params: PhantomParams, order: Order, thorax: Thorax) -> Lattice:
    in_plane = round(float(rng.uniform(*params.spacing_mm)), 6)
    slices = float(rng.choice(params.slices_mm))
    half = -thorax.grid.start_xyz[:2] - rng.uniform(2, 8, 2)
    columns, rows = (2 * np.floor(half / in_plane)).astype(int).tolist()
    count = int(min((TOP_MM - BOTTOM_MM) / slices, params.max_megavoxels * 1e6 / (rows * columns)))
    bottom = rng.uniform(BOTTOM_MM, TOP_MM - count * slices)
    low = np.array([-(columns - 1) / 2 * in_plane, -(rows - 1) / 2 * in_plane, bottom])
    shift = np.round(rng.uniform([-25, -40, -260], [25, 10, -60]), 6)
    shift[2] += -bottom if rng.random() < 0.2 else 0.0
    return Lattice((count, rows, columns), np.array([in_plane, in_plane, slices]), low, shift, order.is_flipped)


def _plan_patient(rng: np.random.Generator) -> tuple[Patient, list[Tubes]]:
    """A thorax with an arterial tree, its bronchi and a venous tree in each lung; and their finest twigs."""
    thorax = plan_thorax(rng)
    trees, bronchi, fine = [], [], []
    for side, hilum in zip((-1, 1), thorax.hila_xyz, strict=True):
        lung = (thorax.lung < -2.0) & (thorax.grid.axes()[0] * side > 0)
        for root, tips in ((hilum, ARTERY_TIPS), (hilum + np.array([-side * 3.0, 4.0, -12.0]), VEIN_TIPS)):
            tree = grow_tree(rng, root, thorax.grid.points_in(rng, lung, tips), rng.uniform(0.40, 0.48))
            trees.append(tree)
            fine.append(twigs(rng, tree, TWIGS))
        bronchi.append(bronchi_beside(rng, trees[-2]))
    return Patient(thorax, tuple(trees), tuple(bronchi)), fine
