"""Where nodules and their look-alikes lie in a thorax."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lunaops.phantom import lesions
from lunaops.phantom.anatomy import Thorax
from lunaops.phantom.fields import Array
from lunaops.phantom.lesions import STRAND_DENSITY, Lesion, Spot
from lunaops.phantom.vessels import Bronchi, Tree, Tubes

MARGIN_MM = 4.0  # between two findings, and from a finding's centre to the scan's border
LOOK_ALIKE_RADIUS_MM = 3.0  # the room that each of them takes

# Kinds of look-alike and how often each is drawn.
LOOK_ALIKES = {
    "scar": 0.18,
    "plaque": 0.20,
    "spur": 0.13,
    "swelling": 0.10,
    "patch": 0.09,
    "micronodule": 0.10,
    "lymph_node": 0.07,
    "plug": 0.13,
}
# How deep in the lung [mm, negative inside] those lie that need no more than that.
DEPTHS_MM = {"scar": (-14, -3), "patch": (-9, -2), "micronodule": (-99, -3), "lymph_node": (0.0, 3.0)}
WALL_MM = {"plaque": (-1.5, 1.0), "spur": (-1.0, 1.5)}
NEAR_BONE_MM = 5.0
FAR_FROM_RIBS_MM = 8.0  # from the chest wall: there the lung borders on the mediastinum


@dataclass(frozen=True)
class Window:
    """The part of the thorax that is scanned [mm]."""

    low_xyz: Array
    high_xyz: Array

    def holds(self, points_xyz: Array, margin_mm: float = MARGIN_MM) -> Array:
        """Which of (n, 3) points lie inside by the margin."""
        inside = (points_xyz > self.low_xyz + margin_mm) & (points_xyz < self.high_xyz - margin_mm)
        return np.asarray(inside.all(axis=1))


@dataclass(frozen=True)
class Patient:
    """A thorax with its vessels and bronchi."""

    thorax: Thorax
    trees: tuple[Tree, ...]
    bronchi: tuple[Bronchi, ...]

    def depth(self, points_xyz: Array) -> Array:
        """Signed distance [mm] of (n, 3) points to the lung's surface, negative inside."""
        return self.thorax.grid.value_at(self.thorax.lung, points_xyz)

    def vessel_nodes(self) -> tuple["Spots", Array]:
        """All trees' nodes, and how many branches leave each."""
        points = np.concatenate([tree.points_xyz for tree in self.trees])
        along = np.concatenate([tree.directions() for tree in self.trees])
        radius = np.concatenate([tree.radius_mm for tree in self.trees])
        return Spots(points, along, radius), np.concatenate([tree.num_children for tree in self.trees])

    def bronchus_nodes(self) -> "Spots":
        """All points of the bronchi and their outer radii."""
        points = np.concatenate([bronchi.lumen.end_xyz for bronchi in self.bronchi])
        outer = np.concatenate([bronchi.wall.radius_mm for bronchi in self.bronchi])
        return Spots(points, np.zeros_like(points), outer)


@dataclass(frozen=True)
class Spots:
    """Points (n, 3) where something may lie, a direction at each, and the radius [mm] of what is there already."""

    points_xyz: Array
    directions: Array
    radii_mm: Array

    @classmethod
    def at(cls, points_xyz: Array, directions: Array | None = None) -> "Spots":
        """Points where nothing is yet."""
        return cls(
            points_xyz, np.zeros_like(points_xyz) if directions is None else directions, np.zeros(len(points_xyz))
        )

    def __getitem__(self, chosen: Array) -> "Spots":
        return Spots(self.points_xyz[chosen], self.directions[chosen], self.radii_mm[chosen])

    def spot(self, index: int) -> Spot:
        """One of them."""
        return Spot(self.points_xyz[index], self.directions[index], float(self.radii_mm[index]))


@dataclass
class Placing:
    """Keeps findings apart and inside the scan."""

    window: Window
    centres: list[Array] = field(default_factory=list)
    radii: list[float] = field(default_factory=list)

    def take(self, spots: Spots, radius: float) -> Spot | None:
        """The first spot at which a finding of this radius [mm] fits, which then is taken; None if there is none."""
        points = spots.points_xyz
        fits = self.window.holds(points, max(MARGIN_MM, 0.6 * radius))
        if self.centres:
            apart = np.linalg.norm(points[:, None] - np.stack(self.centres)[None], axis=2)
            fits &= (apart > np.array(self.radii) + radius + MARGIN_MM).all(axis=1)
        if not fits.any():
            return None
        spot = spots.spot(int(np.argmax(fits)))
        self.centres.append(spot.centre_xyz)
        self.radii.append(radius)
        return spot


def place_nodules(
    rng: np.random.Generator,
    patient: Patient,
    placing: Placing,
    diameters_mm: Sequence[float],
    attached_share: float,
    subtle_share: float,
) -> dict[int, Lesion]:
    """Nodules by their place in `diameters_mm`, the largest first: free in the lung, on the pleura or on a vessel."""
    nodules = {}
    for number in sorted(range(len(diameters_mm)), key=lambda number: -diameters_mm[number]):
        diameter = diameters_mm[number]
        half = attached_share / 2
        wanted = rng.choice(["pleura", "vessel", "free"], p=[half, half, 1 - attached_share])
        for where in (wanted, "free", "pleura"):
            spot = placing.take(_nodule_spots(rng, patient, diameter / 2, where), diameter / 2)
            if spot is not None:
                nodules[number] = lesions.draw_nodule(rng, spot, diameter, subtle_share)
                break
    return nodules


def _nodule_spots(rng: np.random.Generator, patient: Patient, radius: float, where: str) -> Spots:
    thorax, grid = patient.thorax, patient.thorax.grid
    if where == "vessel":
        nodes, _ = patient.vessel_nodes()
        nodes = nodes[rng.permutation(np.flatnonzero((nodes.radii_mm > 0.6) & (nodes.radii_mm < 1.8)))[:400]]
        side = np.cross(nodes.directions, lesions.directions(rng, len(nodes.radii_mm)))
        side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-3)
        points = nodes.points_xyz + side * (0.75 * radius + nodes.radii_mm)[:, None]
        return Spots.at(points[patient.depth(points) < -0.8 * radius])
    if where == "free":
        points = grid.points_in(rng, thorax.lung < -radius, 800)
        return Spots.at(points[patient.depth(points) < -radius - 1.5])
    inside = rng.uniform(0.25, 0.8) * radius
    points = grid.points_in(rng, np.abs(thorax.lung + inside) < 1.5, 800)
    depth = patient.depth(points)
    at_wall = np.abs(grid.value_at(thorax.cavity, points) - depth) < 2
    points, depth = points[at_wall], depth[at_wall]
    return Spots.at(points - grid.gradient_at(thorax.lung, points) * (depth + inside)[:, None])


def place_look_alikes(rng: np.random.Generator, patient: Patient, placing: Placing, count: int) -> list[Lesion]:
    """Findings that are no nodules, of random kinds by the shares in LOOK_ALIKES; fewer if there is no room."""
    shares = np.array(list(LOOK_ALIKES.values()))
    placed = []
    for kind in rng.choice(list(LOOK_ALIKES), size=count, p=shares / shares.sum()).tolist():
        spot = placing.take(_look_alike_spots(rng, patient, kind), LOOK_ALIKE_RADIUS_MM)
        if spot is not None:
            placed.append(_plug(rng, patient, spot) if kind == "plug" else lesions.DRAW[kind](rng, spot))
    return placed


def _look_alike_spots(rng: np.random.Generator, patient: Patient, kind: str) -> Spots:
    if kind == "swelling":
        nodes, num_children = patient.vessel_nodes()
        return nodes[_shuffled(rng, (num_children > 1) & (nodes.radii_mm > 0.8) & (nodes.radii_mm < 2.2))[:200]]
    if kind == "plug":
        nodes = patient.bronchus_nodes()
        return nodes[_shuffled(rng, patient.depth(nodes.points_xyz) < -4)]
    if kind == "plaque" and rng.random() < 0.4:
        return _fissure_spots(rng, patient)
    return _lung_spots(rng, patient, kind)


def _shuffled(rng: np.random.Generator, mask: Array) -> Array:
    return rng.permutation(np.flatnonzero(mask))


def _fissure_spots(rng: np.random.Generator, patient: Patient) -> Spots:
    thorax, grid = patient.thorax, patient.thorax.grid
    points = grid.points_in(rng, (thorax.lung < -5) & (thorax.fissure < 3), 200)
    across = grid.gradient_at(thorax.fissure, points)
    length = np.linalg.norm(across, axis=1)
    return Spots.at(points[length > 0.3], across[length > 0.3])


def _lung_spots(rng: np.random.Generator, patient: Patient, kind: str) -> Spots:
    """At the depth that the kind wants; directions point out of the lung."""
    thorax, grid = patient.thorax, patient.thorax.grid
    low, high = DEPTHS_MM.get(kind) or WALL_MM[kind]
    points = grid.points_in(rng, (thorax.lung > low - 1) & (thorax.lung < high + 1), 400)
    depth = patient.depth(points)
    fits = (depth > low) & (depth < high)
    if kind == "spur":
        fits &= np.abs(grid.value_at(thorax.bone, points)) < NEAR_BONE_MM
    if kind == "lymph_node":
        fits &= depth - grid.value_at(thorax.cavity, points) > FAR_FROM_RIBS_MM
    return Spots.at(points[fits], grid.gradient_at(thorax.lung, points[fits]))


def _plug(rng: np.random.Generator, patient: Patient, spot: Spot) -> Lesion:
    """A stretch of bronchus filled with mucus, a little widened."""
    lumen = Tubes.joined([bronchi.lumen for bronchi in patient.bronchi])
    outer = np.concatenate([bronchi.wall.radius_mm for bronchi in patient.bronchi])
    near = np.linalg.norm(lumen.end_xyz - spot.centre_xyz, axis=1) < rng.uniform(3, 8)
    mucus = Tubes.of(lumen.start_xyz[near], lumen.end_xyz[near], rng.uniform(1.0, 1.5) * outer[near], STRAND_DENSITY)
    return Lesion("plug", spot.centre_xyz, 2 * spot.radius_mm, (), mucus)


def open_lumens(patient: Patient, found: Sequence[Lesion]) -> Tubes:
    """The air in the bronchi, but for the stretches that are plugged."""
    lumen = Tubes.joined([bronchi.lumen for bronchi in patient.bronchi])
    plugs = Tubes.joined([lesion.strands for lesion in found if lesion.kind == "plug"])
    plugged = {tuple(end) for end in plugs.end_xyz.tolist()}
    is_open = np.array([tuple(end) not in plugged for end in lumen.end_xyz.tolist()], dtype=bool)
    return Tubes.of(lumen.start_xyz, lumen.end_xyz, np.where(is_open, lumen.radius_mm, 0.0))
