"""The candidates: marks on nodules, on their look-alikes and on ordinary anatomy that resembles them."""

from collections.abc import Sequence

import numpy as np

from lunaops.phantom import lesions
from lunaops.phantom.fields import Array
from lunaops.phantom.findings import MARGIN_MM, Patient, Spots, Window
from lunaops.phantom.lesions import Lesion

# Kinds of ordinary anatomy and how often each is marked.
ANATOMY = {
    "branching": 0.14,
    "through_plane": 0.05,
    "bend": 0.05,
    "hilum": 0.06,
    "vessel": 0.30,
    "periphery": 0.22,
    "bronchus": 0.05,
    "pleura": 0.10,
    "dome": 0.03,
}
HALF_RADIUS = 0.49  # no mark is farther from its centre than this part of the radius


def mark_nodules(rng: np.random.Generator, nodules: Sequence[Lesion], marks_per_nodule: Sequence[int]) -> Array:
    """Candidates (n, 3) on nodules, off the centre by up to half the radius."""
    marks = [
        nodule.centre_xyz + _off_centre(rng, count, nodule.diameter_mm / 2)
        for nodule, count in zip(nodules, marks_per_nodule, strict=True)
    ]
    return np.concatenate([np.zeros((0, 3)), *marks])


def mark_others(
    rng: np.random.Generator,
    patient: Patient,
    look_alikes: Sequence[Lesion],
    nodules: Sequence[Lesion],
    window: Window,
    count: int,
) -> Array:
    """Candidates (count, 3) on look-alikes, then on ordinary anatomy, as far off their centres as those on nodules."""
    marks = [
        lesion.centre_xyz + _off_centre(rng, 1, min(lesion.diameter_mm / 2, 4.0))[0] for lesion in look_alikes[:count]
    ]
    spots = anatomy_spots(rng, patient)
    shares = np.array(list(ANATOMY.values()))
    for kind in rng.choice(list(ANATOMY), size=40 * count, p=shares / shares.sum()).tolist():
        if len(marks) == count:
            break
        found = spots[kind]
        if len(found.radii_mm) == 0:
            continue
        spot = found.spot(int(rng.integers(len(found.radii_mm))))
        mark = spot.centre_xyz + _off_centre(rng, 1, max(2.2, 1.3 * spot.radius_mm))[0]
        if window.holds(mark[None])[0] and not _is_near(mark, marks, nodules):
            marks.append(mark)
    return np.reshape(marks, (-1, 3))


def _off_centre(rng: np.random.Generator, count: int, radius_mm: float) -> Array:
    return lesions.directions(rng, count) * rng.uniform(0, HALF_RADIUS, (count, 1)) * radius_mm


def _is_near(mark: Array, marks: Sequence[Array], nodules: Sequence[Lesion]) -> bool:
    near_mark = any(np.linalg.norm(mark - other) < MARGIN_MM for other in marks)
    return near_mark or any(
        np.linalg.norm(mark - nodule.centre_xyz) < nodule.diameter_mm / 2 + MARGIN_MM for nodule in nodules
    )


def anatomy_spots(rng: np.random.Generator, patient: Patient) -> dict[str, Spots]:
    """For each kind of ordinary anatomy the spots that resemble a nodule in some plane."""
    nodes, num_children = patient.vessel_nodes()
    depth, radius = patient.depth(nodes.points_xyz), nodes.radii_mm
    turn = np.concatenate([_turns(tree.directions(), tree.parent) for tree in patient.trees])
    in_lung = depth < -2
    bronchi = patient.bronchus_nodes()
    return {
        "branching": nodes[in_lung & (num_children > 1) & (radius > 0.7) & (radius < 2.4)],
        "through_plane": nodes[in_lung & (np.abs(nodes.directions[:, 2]) > 0.8) & (radius > 0.8) & (radius < 2.2)],
        "bend": nodes[in_lung & (turn > 0.35) & (radius > 0.7)],
        "hilum": nodes[(depth < 0.5) & (radius > 2.2)],
        "vessel": nodes[in_lung & (radius > 0.5) & (radius < 1.6)],
        "periphery": nodes[(depth < -1) & (depth > -7) & (radius > 0.45)],
        "bronchus": bronchi[patient.depth(bronchi.points_xyz) < -3],
        "pleura": _pleura(rng, patient),
        "dome": _dome_tops(patient),
    }


def _turns(directions: Array, parent: Array) -> Array:
    """1 minus the cosine between each node's direction and its parent's."""
    return np.asarray(1 - np.einsum("ij,ij->i", directions, directions[parent]))


def _pleura(rng: np.random.Generator, patient: Patient) -> Spots:
    """Points just inside the lung's surface: over ribs, beside the heart, in the sinuses."""
    points = patient.thorax.grid.points_in(rng, np.abs(patient.thorax.lung + 1) < 2, 300)
    return Spots.at(points[np.abs(patient.depth(points) + 1) < 1.5])


def _dome_tops(patient: Patient) -> Spots:
    """Where the diaphragm first shows from above: a round blur in a transverse slice."""
    x, y, z = (axis.ravel() for axis in patient.thorax.grid.axes())
    tops = []
    for side in (-1, 1):
        near_middle = (np.abs(x - side * 40) < 12)[None, None, :] & (np.abs(y + 8) < 12)[None, :, None]
        is_lung = (patient.thorax.lung < -1) & near_middle
        lowest = np.where(is_lung.any(axis=0), is_lung.argmax(axis=0), -1)
        row, column = np.unravel_index(int(lowest.argmax()), lowest.shape)
        tops.append([x[column], y[row], z[max(lowest[row, column], 0)]])
    points = np.array(tops, dtype=float)
    return Spots(points, np.zeros_like(points), np.full(len(points), 4.0))
