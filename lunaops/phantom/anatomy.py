"""A thorax: where body, lungs, heart, bones and fissures lie, as signed distances on a coarse grid."""

from dataclasses import dataclass

import numpy as np

from lunaops.phantom.fields import Array, CoarseGrid, distance_to_level, intersection, union

HALF_WIDTH_MM = 84.0  # of the thoracic cavity from side to side: about 0.65 of an adult's
HALF_DEPTH_MM = 57.0
BOTTOM_MM, TOP_MM = -54.0, 58.0
MUSCLE_HU, FAT_HU, MARROW_HU, CORTEX_HU, AIR_HU = 50.0, -100.0, 220.0, 750.0, -1000.0


@dataclass(frozen=True)
class Thorax:
    """One patient. Distances [mm] are negative inside; HU fields hold what would be there without noise."""

    grid: CoarseGrid
    body: Array
    lung: Array
    bone: Array
    fissure: Array  # the distance to the nearest fissure's plane, not signed
    cavity: Array
    tissue_hu: Array  # everything but lung, bone and air
    lung_hu: Array
    hila_xyz: Array  # (2, 3): right, left
    blood_hu: float


def plan_thorax(rng: np.random.Generator) -> Thorax:
    """Draw one patient's thorax."""
    scale = rng.uniform(0.95, 1.05)
    half = np.array([HALF_WIDTH_MM * scale, HALF_DEPTH_MM * scale * rng.uniform(0.94, 1.06)])
    fat_mm = rng.uniform(2, 9)
    wall = np.array([17.0, 14.0]) + fat_mm
    grid = CoarseGrid.covering(
        np.array([*(-half - wall - 3), BOTTOM_MM - 12]), np.array([*(half + wall + 3), TOP_MM + 12])
    )
    blood_hu = rng.choice([45.0, rng.uniform(120, 260)], p=[0.6, 0.4])
    cavity = _cavity(grid, half) + 1.2 * grid.texture(rng, 25) + 0.5 * grid.texture(rng, 9)
    x, y, z = grid.axes()
    body = distance_to_level(
        (np.abs(x / (half[0] + wall[0])) ** 2.3 + np.abs(y / (half[1] + wall[1])) ** 2.3) ** (1 / 2.3) - 1 + 0 * z
    )
    heart_xyz = np.array([rng.uniform(12, 20), -16.0, rng.uniform(-34, -26)])
    hila_xyz = np.array([[-24.0, 6.0, rng.uniform(-4, 4)], [25.0, 8.0, rng.uniform(-2, 6)]])
    organs = _organs(grid, rng, half, heart_xyz, hila_xyz)
    mediastinum = union(*organs.values(), rounding_mm=5) + 0.8 * grid.texture(rng, 12)
    diaphragm = _diaphragm(grid, rng)
    lung = intersection(cavity, 0.5 - mediastinum, diaphragm)
    bone = _bones(grid, rng, half, cavity)
    return Thorax(
        grid=grid,
        body=body,
        lung=lung.astype(np.float32),
        bone=bone.astype(np.float32),
        fissure=_fissure(grid, rng),
        cavity=cavity.astype(np.float32),
        tissue_hu=_tissue_hu(grid, rng, organs, cavity, body, diaphragm, fat_mm, blood_hu),
        lung_hu=_lung_hu(grid, rng, half),
        hila_xyz=hila_xyz,
        blood_hu=float(blood_hu),
    )


def _ellipsoid(grid: CoarseGrid, centre: Array, radii: tuple[float, float, float]) -> Array:
    x, y, z = grid.axes()
    q = np.sqrt(
        ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((z - centre[2]) / radii[2]) ** 2
    )
    return distance_to_level(q - 1)


def _column(grid: CoarseGrid, x0: float, y0: float, radius: float) -> Array:
    x, y, z = grid.axes()
    return np.asarray(np.hypot(x - x0, y - y0) - radius + 0 * z)


def _cavity(grid: CoarseGrid, half: Array) -> Array:
    x, y, z = grid.axes()
    rise = np.clip((z + 4) / (TOP_MM + 4), 0, 1.15)
    width = np.sqrt(np.clip(1 - rise**2.4, 0.02, 1))
    q = (np.abs(x / (half[0] * width)) ** 2.2 + np.abs(y / (half[1] * width**0.8)) ** 2.2) ** (1 / 2.2)
    return distance_to_level(q - 1)


def _organs(
    grid: CoarseGrid, rng: np.random.Generator, half: Array, heart_xyz: Array, hila_xyz: Array
) -> dict[str, Array]:
    x, y, z = grid.axes()
    midline = np.abs(x - 3) - (5 + 6 * np.clip((y + half[1]) / half[1], 0, 1)) + 0 * z
    arch = _ellipsoid(grid, np.array([8.0, -2.0, 27.0]), (10, 22, 9))
    aorta = intersection(_column(grid, 13 + rng.uniform(-2, 3), half[1] * 0.55, 9.5), z - 27 + 0 * x + 0 * y)
    ascending = intersection(_column(grid, -5, -16, 11), z - 26 + 0 * x + 0 * y)
    return {
        "midline": midline,
        "heart": _ellipsoid(grid, heart_xyz, (36, 29, 33)),
        "aorta": union(arch, aorta, ascending),
        "spine": _column(grid, 0, half[1] - 4, 17),
        "hilum_right": _ellipsoid(grid, hila_xyz[0] + [6, 0, 0], (11, 9, 12)),
        "hilum_left": _ellipsoid(grid, hila_xyz[1] - [6, 0, 0], (11, 9, 12)),
    }


def _diaphragm(grid: CoarseGrid, rng: np.random.Generator) -> Array:
    """Positive below the domes."""
    x, y, z = grid.axes()
    height = np.full((1, 1, 1), -60.0)
    for side, top in ((-1, rng.uniform(-30, -20)), (1, rng.uniform(-36, -26))):
        dome = top - ((x - side * 40) / 9.5) ** 2 * 0.9 - ((y + 8) / 9.5) ** 2 * 0.75
        height = np.maximum(height, dome)
    surface = height + 1.5 * grid.texture(rng, 18)
    return distance_to_level(surface - z)


def _bones(grid: CoarseGrid, rng: np.random.Generator, half: Array, cavity: Array) -> Array:
    """Ribs slope down from the spine to the front and end there in cartilage; spine and sternum."""
    x, y, z = grid.axes()
    angle = np.arctan2(np.abs(x) / half[0], y / half[1])  # 0 at the back, pi at the front
    pitch = rng.uniform(19, 23)
    along = z + 16 * angle - 3 * np.sign(x)
    off = (np.mod(along + rng.uniform(0, pitch), pitch) - pitch / 2) + 0 * y
    rib = np.hypot((cavity - 6.0) / 1.0, off / 1.9) - 3.6
    ends = (angle - rng.uniform(2.2, 2.5)) * 40 + 0 * z
    ribs = intersection(rib, ends, rounding_mm=2)
    spine_y = half[1] - 2
    disc = 14.5 - 1.2 * np.cos(2 * np.pi * z / 21)
    vertebra = np.hypot(x, (y - spine_y) * 1.15) - disc
    arch = np.maximum(np.hypot(x / 1.6, y - spine_y - 21) - 9, 6.5 - np.hypot(x, y - spine_y - 17)) + 0 * z
    sternum = np.maximum(np.abs(x) - 13 + 0 * y + 0 * z, np.abs(y + half[1] + 7) - 5 + 0 * x + 0 * z)
    return union(ribs, vertebra, arch, sternum, rounding_mm=1)


def _fissure(grid: CoarseGrid, rng: np.random.Generator) -> Array:
    """The oblique fissures run from high at the back to low in front; the right lung has a horizontal one too."""
    x, y, z = grid.axes()
    wave = 3 * grid.texture(rng, 30)
    oblique = np.abs((z + 4) * 0.75 - (y - 8) * 0.66 + wave)
    horizontal = np.where((x < 0) & (y < 0), np.abs(z - 6 + wave), 99)
    return np.asarray(np.minimum(oblique, horizontal), dtype=np.float32)


def _lung_hu(grid: CoarseGrid, rng: np.random.Generator, half: Array) -> Array:
    """Denser towards the back (gravity), patchy, in some patients with emphysema."""
    _, y, z = grid.axes()
    hu = rng.uniform(-905, -860) + rng.uniform(15, 50) * (y / half[1]) + 0 * z
    hu = hu + rng.uniform(8, 16) * grid.texture(rng, 20) + rng.uniform(8, 14) * grid.texture(rng, 6)
    if rng.random() < 0.3:
        hu = hu - 60 * np.clip(grid.texture(rng, 8) - 0.8, 0, 1.2) * np.clip(0.5 + z / 40, 0, 1)
    if rng.random() < 0.4:
        hu = hu + 70 * np.clip(grid.texture(rng, 15) - 1.2, 0, 1.5)
    return np.asarray(hu, dtype=np.float32)


def _tissue_hu(
    grid: CoarseGrid,
    rng: np.random.Generator,
    organs: dict[str, Array],
    cavity: Array,
    body: Array,
    diaphragm: Array,
    fat_mm: float,
    blood_hu: float,
) -> Array:
    """Fat between muscles outside, organs in fat inside, liver and stomach below the domes, skin, air."""
    lobules = grid.texture(rng, 9)
    depth = -body
    muscle = _step(np.minimum(depth - fat_mm - 2, 15 - cavity) + 2.5 * lobules - 1)
    wall = FAT_HU + (MUSCLE_HU - FAT_HU) * np.maximum(muscle, _step(3 - cavity) * 0.9)
    inside = FAT_HU + (40 - FAT_HU) * _step(lobules * 2 + 1.5)
    for name in ("heart", "aorta"):
        inside = _mix(inside, blood_hu if name == "aorta" else 0.8 * blood_hu + 10, _step(-organs[name]))
    for name in ("hilum_right", "hilum_left"):
        inside = _mix(inside, 0.7 * blood_hu + 15, _step(-organs[name] + lobules))
    inside = _mix(inside, rng.uniform(45, 65), _step(diaphragm))
    hu = _mix(wall, inside, _step(-cavity))
    hu = _mix(hu, 20.0, _step(1.5 - depth))  # skin
    return np.asarray(hu + 6 * grid.texture(rng, 5), dtype=np.float32)


def _step(distance: Array) -> Array:
    return np.clip(0.5 + distance / 2, 0, 1)


def _mix(below: Array, above: Array | float, share: Array) -> Array:
    return below + (above - below) * share
