"""What is in the lungs besides lung: nodules, and findings that resemble them."""

from dataclasses import dataclass, field, replace

import numpy as np

from lunaops.phantom.fields import Array
from lunaops.phantom.vessels import Tubes

SOLID_HU = (10.0, 70.0)
GROUND_GLASS_HU = (-650.0, -420.0)
LARGE_MM = 14.0  # nodules above it are mostly solid
STRAND_DENSITY = 0.8  # share of soft tissue; vessels, which may hold contrast agent, have 1
LOBE_SHARPNESS = 9.0  # a lobe rises as exp(sharpness * (cosine to its direction - 1))


@dataclass(frozen=True)
class Spot:
    """A point where a lesion may lie, a direction there (out of the lung, along a vessel), a vessel's radius."""

    centre_xyz: Array
    direction: Array
    radius_mm: float


@dataclass(frozen=True)
class Shape:
    """An ellipsoid with lobes or dents."""

    semi_axes_mm: Array
    rotation: Array  # rows are the axes' directions
    lobe_directions: Array = field(default_factory=lambda: np.zeros((0, 3)))
    lobe_heights: Array = field(default_factory=lambda: np.zeros(0))  # parts of the radius

    def scaled(self, factor: float) -> "Shape":
        """The same shape, larger or smaller."""
        return replace(self, semi_axes_mm=self.semi_axes_mm * factor)


@dataclass(frozen=True)
class Blob:
    """A body that is at least as dense as `hu` (or, hollow, filled with air)."""

    centre_xyz: Array
    shape: Shape
    hu: float
    edge_mm: float = 0.6  # over which the density falls to that of the surroundings
    is_hollow: bool = False

    @property
    def reach_mm(self) -> float:
        """No part of the blob is farther than this from its centre."""
        return float(self.shape.semi_axes_mm.max() * (1 + self.shape.lobe_heights.clip(min=0).sum()) + self.edge_mm)


@dataclass(frozen=True)
class Lesion:
    """A finding as drawn: its blobs and strands, and what a reader would write down about it."""

    kind: str
    centre_xyz: Array
    diameter_mm: float
    blobs: tuple[Blob, ...]
    strands: Tubes = field(default_factory=lambda: Tubes.joined([]))
    is_malignant: bool = False
    annotated_mm: float = -1.0  # -1: the readers marked it without outlining it


def random_rotation(rng: np.random.Generator) -> Array:
    """A rotation drawn evenly."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(q * np.sign(np.diag(r)))


def facing(rng: np.random.Generator, normal_xyz: Array) -> Array:
    """A rotation whose third row is the given direction."""
    third = normal_xyz / max(float(np.linalg.norm(normal_xyz)), 1e-6)
    first = np.cross(third, rng.standard_normal(3))
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third])


def directions(rng: np.random.Generator, count: int) -> Array:
    """Unit vectors (count, 3) drawn evenly."""
    vectors = rng.standard_normal((count, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def draw_nodule(rng: np.random.Generator, spot: Spot, diameter_mm: float, subtle_share: float) -> Lesion:
    """A nodule: solid, part-solid or ground-glass, round, lobed or spiculated; large ones may be hollow.

    The odds of malignancy rise with size as in LIDC (5 % at 5 mm, a half at 9, 95 % over 15) and with spicules.
    """
    radius = diameter_mm / 2
    is_spiculated = rng.random() < np.clip((diameter_mm - 5) / 16, 0.05, 0.75)
    is_lobed = is_spiculated or rng.random() < np.clip(diameter_mm / 20, 0.4, 0.85)
    lobes = int(rng.integers(8, 14) + radius) if is_lobed else 4
    heights = rng.uniform(-0.22, 0.45, lobes) * (1.0 if is_lobed else 0.35)
    axes = rng.uniform(0.8, 1.2, 3)
    axes *= radius / np.prod(axes) ** (1 / 3) / (1 + heights.sum() / (2 * LOBE_SHARPNESS))
    shape = Shape(axes, random_rotation(rng), directions(rng, lobes), heights)
    subtle_share *= 1.0 if diameter_mm < LARGE_MM else 0.3
    kind, blobs = _nodule_blobs(rng, spot.centre_xyz, shape, radius, subtle_share)
    odds = (diameter_mm - 9.3) / 1.6 + (1.5 if is_spiculated else -0.4)
    return Lesion(
        kind=kind,
        centre_xyz=spot.centre_xyz,
        diameter_mm=diameter_mm,
        annotated_mm=diameter_mm,
        blobs=blobs,
        strands=_spicules(rng, spot.centre_xyz, radius) if is_spiculated else Tubes.joined([]),
        is_malignant=bool(rng.random() < 1 / (1 + np.exp(-odds))),
    )


def _nodule_blobs(
    rng: np.random.Generator, centre: Array, shape: Shape, radius: float, subtle_share: float
) -> tuple[str, tuple[Blob, ...]]:
    solid_hu, glass_hu = rng.uniform(*SOLID_HU), rng.uniform(*GROUND_GLASS_HU)
    if rng.random() >= subtle_share:
        solid = Blob(centre, shape, solid_hu, edge_mm=rng.uniform(0.4, 1.0))
        if radius > 5 and rng.random() < 0.08:
            return "solid", (solid, _inside(rng, solid, rng.uniform(0.2, 0.45), -900.0, is_hollow=True))
        if rng.random() < 0.08:
            return "solid", (solid, _inside(rng, solid, rng.uniform(0.3, 0.6), rng.uniform(200, 600)))
        return "solid", (solid,)
    glass = Blob(centre, shape.scaled(0.9), glass_hu, edge_mm=rng.uniform(0.8, 1.6))
    clouds = [
        replace(
            glass, centre_xyz=centre + 0.5 * radius * way, shape=shape.scaled(0.6), hu=glass_hu + rng.uniform(-80, 100)
        )
        for way in directions(rng, 5)
    ]
    if rng.random() < 0.5:
        return "ground_glass", (glass, *clouds)
    return "part_solid", (glass, *clouds, _inside(rng, glass, rng.uniform(0.4, 0.65), solid_hu - 60))


def _inside(rng: np.random.Generator, outer: Blob, part: float, hu: float, is_hollow: bool = False) -> Blob:
    aside = directions(rng, 1)[0] * outer.shape.semi_axes_mm.min() * (1 - part) * 0.35
    return Blob(outer.centre_xyz + aside, outer.shape.scaled(part), hu, edge_mm=0.8, is_hollow=is_hollow)


def _spicules(rng: np.random.Generator, centre: Array, radius: float) -> Tubes:
    out = directions(rng, int(rng.uniform(4, 8) * radius**1.3))
    knee = centre + out * radius * rng.uniform(1.1, 1.4, (len(out), 1))
    tip = knee + (out + 0.3 * rng.standard_normal(out.shape)) * rng.uniform(2, 4 + 0.4 * radius, (len(out), 1))
    return Tubes.joined(
        [
            Tubes.of(centre + 0.7 * radius * out, knee, rng.uniform(0.4, 0.9, len(out)), STRAND_DENSITY),
            Tubes.of(knee, tip, rng.uniform(0.3, 0.55, len(out)), STRAND_DENSITY),
        ]
    )


def draw_scar(rng: np.random.Generator, spot: Spot) -> Lesion:
    """A short thick line with strands: longer than wide, drawn out to its ends."""
    length, width = rng.uniform(3, 8), rng.uniform(0.9, 1.9)
    shape = Shape(np.array([length, width, width * rng.uniform(0.6, 1.6)]), random_rotation(rng))
    ends = np.array([1, -1, 0.5, -0.5])[: rng.integers(2, 5), None]
    start = spot.centre_xyz + ends * 0.8 * length * shape.rotation[0]
    onward = np.sign(ends) * shape.rotation[0] + 0.6 * rng.standard_normal((len(ends), 3))
    end = start + onward * rng.uniform(3, 7, (len(ends), 1))
    strands = Tubes.of(start, end, rng.uniform(0.35, 0.6, len(ends)), STRAND_DENSITY)
    body = Blob(spot.centre_xyz, shape, rng.uniform(-150, 50), edge_mm=0.8)
    return Lesion("scar", spot.centre_xyz, 1.2 * length, (body,), strands)


def draw_plaque(rng: np.random.Generator, spot: Spot) -> Lesion:
    """A flat lens on the pleura, fissure or diaphragm; sometimes calcified."""
    wide, high = rng.uniform(3, 8, 2), rng.uniform(1.2, 2.8)
    hu = rng.uniform(200, 500) if rng.random() < 0.15 else rng.uniform(-20, 60)
    lens = Blob(spot.centre_xyz, Shape(np.array([*wide, high]), facing(rng, spot.direction)), hu)
    return Lesion("plaque", spot.centre_xyz, float(wide.mean()), (lens,))


def draw_spur(rng: np.random.Generator, spot: Spot) -> Lesion:
    """A rib's end or a vertebra's spur that pushes the pleura inwards: bone under soft tissue."""
    size = rng.uniform(2.5, 5.5)
    shape = Shape(size * np.array([1.6, 1.1, 0.55]), facing(rng, spot.direction))
    cover = Blob(spot.centre_xyz, shape, 50.0)
    bone = Blob(spot.centre_xyz + 0.2 * size * spot.direction, shape.scaled(0.6), rng.uniform(150, 500), edge_mm=0.8)
    return Lesion("spur", spot.centre_xyz, 2 * size, (cover, bone))


def draw_swelling(rng: np.random.Generator, spot: Spot) -> Lesion:
    """A vessel wider than usual where it branches, drawn out along its course."""
    axes = spot.radius_mm * np.array([rng.uniform(1.2, 1.5), rng.uniform(1.2, 1.5), rng.uniform(1.8, 3.0)])
    blob = Blob(spot.centre_xyz, Shape(axes, facing(rng, spot.direction)), rng.uniform(*SOLID_HU))
    return Lesion("swelling", spot.centre_xyz, float(2 * axes[:2].mean()), (blob,))


def draw_patch(rng: np.random.Generator, spot: Spot) -> Lesion:
    """Ill-defined density of collapsed or inflamed lung: several soft blobs side by side."""
    size = rng.uniform(2, 5)
    blobs = []
    for _ in range(rng.integers(4, 8)):
        centre = spot.centre_xyz + size * rng.standard_normal(3) * [1.0, 0.7, 0.7]
        shape = Shape(size * rng.uniform(0.4, 1.1, 3), random_rotation(rng))
        blobs.append(Blob(centre, shape, rng.uniform(-680, -250), edge_mm=rng.uniform(1.0, 2.0)))
    return Lesion("patch", spot.centre_xyz, 2 * size, tuple(blobs))


def draw_micronodule(rng: np.random.Generator, spot: Spot) -> Lesion:
    """A nodule under 3 mm: the readers of LIDC marked it without outlining it, so it has no size."""
    diameter = rng.uniform(1.8, 2.9)
    shape = Shape(diameter / 2 * rng.uniform(0.85, 1.15, 3), random_rotation(rng))
    return Lesion("micronodule", spot.centre_xyz, diameter, (Blob(spot.centre_xyz, shape, rng.uniform(-50, 60)),))


def draw_lymph_node(rng: np.random.Generator, spot: Spot) -> Lesion:
    """A lymph node against the hilum or the mediastinum."""
    shape = Shape(rng.uniform(2.5, 5.5) * np.array([1.5, 1.1, 0.8]), facing(rng, spot.direction))
    blob = Blob(spot.centre_xyz, shape, rng.uniform(20, 60))
    return Lesion("lymph_node", spot.centre_xyz, float(2 * shape.semi_axes_mm.mean()), (blob,))


DRAW = {
    "scar": draw_scar,
    "plaque": draw_plaque,
    "spur": draw_spur,
    "swelling": draw_swelling,
    "patch": draw_patch,
    "micronodule": draw_micronodule,
    "lymph_node": draw_lymph_node,
}
