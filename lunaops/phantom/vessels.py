"""Branching, tapering vessels and the bronchi beside them, grown from the hilum to points all over the lung."""

from dataclasses import dataclass

import numpy as np

from lunaops.phantom.fields import Array

KNOT_MM = 3.5  # between the nodes of a tree
MURRAY = 2.8  # a parent's radius to this power is the sum of its children's (Murray's law: 3)


@dataclass(frozen=True)
class Tubes:
    """Many short straight pieces (n of them) with a radius [mm] and a density (share of soft tissue)."""

    start_xyz: Array
    end_xyz: Array
    radius_mm: Array
    density: Array

    @classmethod
    def of(cls, start_xyz: Array, end_xyz: Array, radius_mm: Array | float, density: Array | float = 1.0) -> "Tubes":
        """Pieces that may share one radius or one density."""
        n = len(start_xyz)
        return cls(
            np.asarray(start_xyz, float).reshape(n, 3),
            np.asarray(end_xyz, float).reshape(n, 3),
            np.broadcast_to(np.asarray(radius_mm, float), n).copy(),
            np.broadcast_to(np.asarray(density, float), n).copy(),
        )

    @classmethod
    def joined(cls, parts: list["Tubes"]) -> "Tubes":
        """All pieces in one."""
        if not parts:
            return cls.of(np.zeros((0, 3)), np.zeros((0, 3)), 0.0)
        return cls(
            np.concatenate([p.start_xyz for p in parts]),
            np.concatenate([p.end_xyz for p in parts]),
            np.concatenate([p.radius_mm for p in parts]),
            np.concatenate([p.density for p in parts]),
        )


@dataclass(frozen=True)
class Tree:
    """A vessel tree: node k hangs on node parent[k] < k; node 0 is the root, its own parent."""

    points_xyz: Array
    parent: Array
    radius_mm: Array
    num_children: Array

    def directions(self) -> Array:
        """Unit vectors along the vessel from each node's parent to the node; the root's is zero."""
        along = self.points_xyz - self.points_xyz[self.parent]
        return np.asarray(along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6))

    def tubes(self) -> Tubes:
        """One piece a node but the root."""
        return Tubes.of(self.points_xyz[self.parent[1:]], self.points_xyz[1:], self.radius_mm[1:])


def grow_tree(rng: np.random.Generator, root_xyz: Array, targets_xyz: Array, twig_radius_mm: float) -> Tree:
    """Connect each target in turn by a bent branch to the node from which the way is short and straight on.

    The first targets make the large branches, later ones fill the room between them.
    """
    room = 64 * len(targets_xyz)
    points, heading = np.zeros((room, 3), np.float32), np.zeros((room, 3), np.float32)
    parent = np.zeros(room, np.intp)
    points[0] = root_xyz
    count, tips = 1, []
    for target in targets_xyz.astype(np.float32):
        away = target - points[:count]
        length = np.sqrt(np.einsum("ij,ij->i", away, away)) + np.float32(1e-3)
        straight = np.einsum("ij,ij->i", away, heading[:count]) / length
        origin = int(np.argmin(length * (np.float32(1.6) - np.float32(0.6) * straight)))
        branch = _branch(rng, points[origin], heading[origin], target)[: room - count]
        if len(branch) == 0:
            break
        end = count + len(branch)
        points[count:end] = branch
        parent[count:end] = np.arange(count - 1, end - 1)
        parent[count] = origin
        steps = branch - points[parent[count:end]]
        heading[count:end] = steps / (np.linalg.norm(steps, axis=1, keepdims=True) + 1e-6)
        count = end
        tips.append(end - 1)
    parent = parent[:count]
    return Tree(
        points_xyz=points[:count].astype(float),
        parent=parent,
        radius_mm=_radii(parent, tips, twig_radius_mm),
        num_children=np.bincount(parent[1:], minlength=count),
    )


def _branch(rng: np.random.Generator, start: Array, heading: Array, target: Array) -> Array:
    """A curve that leaves along the parent's heading, with knots about every KNOT_MM, start left out."""
    distance = float(np.linalg.norm(target - start))
    knots = max(int(distance / KNOT_MM), 1)
    t = (np.arange(1, knots + 1, dtype=np.float32) / knots)[:, None]
    control = (
        start + np.float32(0.4 * distance) * heading + np.float32(0.08 * distance) * rng.standard_normal(3, np.float32)
    )
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * target
    return np.asarray(curve + 0.25 * rng.standard_normal((knots, 3), np.float32))


def _radii(parent: Array, tips: list[int], twig_radius_mm: float) -> Array:
    flow = np.zeros(len(parent))
    flow[tips] = 1.0
    above = parent.tolist()
    flows = flow.tolist()
    for node in range(len(above) - 1, 0, -1):
        flows[above[node]] += flows[node]
    return np.asarray(twig_radius_mm * np.maximum(flows, 1.0) ** (1 / MURRAY))


def twigs(rng: np.random.Generator, tree: Tree, count: int) -> Tubes:
    """Vessels too thin to be seen as more than a haze or a dot, from random nodes of a tree."""
    node = rng.integers(1, len(tree.points_xyz), size=count)
    start = tree.points_xyz[node]
    bend = tree.directions()[node] + 0.9 * rng.standard_normal((count, 3))
    bend /= np.linalg.norm(bend, axis=1, keepdims=True)
    middle = start + bend * rng.uniform(2, 5, (count, 1))
    end = middle + (bend + 0.5 * rng.standard_normal((count, 3))) * rng.uniform(1, 4, (count, 1))
    radius = np.minimum(rng.uniform(0.22, 0.42, count), tree.radius_mm[node])
    return Tubes.joined([Tubes.of(start, middle, radius), Tubes.of(middle, end, 0.8 * radius)])


@dataclass(frozen=True)
class Bronchi:
    """Air-filled tubes and their walls, piece by piece."""

    lumen: Tubes
    wall: Tubes


def bronchi_beside(rng: np.random.Generator, artery: Tree, smallest_mm: float = 1.4) -> Bronchi:
    """Bronchi that run with an artery, a little thinner than it, from the hilum as far as they can be seen."""
    heading = artery.directions()
    side = rng.standard_normal(3) - 0 * heading
    side -= np.einsum("ij,ij->i", side, heading)[:, None] * heading
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 0.2)
    lumen = np.where(artery.radius_mm > smallest_mm, 0.62 * artery.radius_mm, 0.0)
    thick = 0.3 + 0.2 * lumen
    centre = artery.points_xyz + side * (artery.radius_mm + lumen + 0.6 * thick)[:, None]
    node = np.flatnonzero((lumen > 0) & (np.arange(len(lumen)) > 0) & (lumen[artery.parent] > 0))
    start, end = centre[artery.parent[node]], centre[node]
    return Bronchi(
        lumen=Tubes.of(start, end, lumen[node]),
        wall=Tubes.of(start, end, (lumen + thick)[node], 0.85),  # the lumen is hollowed out of it
    )


def trachea(hila_xyz: Array) -> Tubes:
    """The windpipe from the neck to where it forks, and the main bronchi from there to the hila."""
    fork, neck = np.array([0.0, 4.0, 14.0]), np.array([1.0, 2.0, 80.0])
    start = np.stack([fork, fork, fork])
    end = np.stack([neck, hila_xyz[0] + np.array([3.0, 0, 0]), hila_xyz[1] - np.array([3.0, 0, 0])])
    return Tubes.of(start, end, np.array([6.5, 4.0, 4.0]))
