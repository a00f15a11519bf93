"""A plan becomes voxels: tissues by their signed distances, vessels and lesions by partial volume, blur, noise."""

import numpy as np
from scipy import ndimage

from lunaops.phantom.anatomy import AIR_HU, CORTEX_HU, MARROW_HU
from lunaops.phantom.fields import STEP_MM, Array, CoarseGrid, interpolate_axis
from lunaops.phantom.lesions import LOBE_SHARPNESS, Blob
from lunaops.phantom.scans import Lattice, ScanPlan
from lunaops.phantom.vessels import Tubes

GRAIN_MM = 0.55  # between the points that fill a tube


def render(plan: ScanPlan, seed: int) -> Array:
    """The scan as stored: int16 HU in the order slice, row, column."""
    rng = np.random.default_rng([seed, plan.order.subset, plan.order.index + 1, 1])
    hu, lung = _tissues(plan)
    _fill(hu, _share_of_voxels(plan.tubes, plan.lattice), plan.thorax.blood_hu * 0.9)
    for blob in plan.blobs:
        _add_blob(hu, blob, plan.lattice)
    _fill(hu, _share_of_voxels(plan.lumens, plan.lattice), -980.0)
    spacing = plan.lattice.spacing_xyz
    hu = ndimage.gaussian_filter(hu, (0.3, plan.blur_mm / spacing[1], plan.blur_mm / spacing[0]), truncate=2.5)
    noise = _noise(rng, plan)
    noise *= plan.noise_hu * (1 + 0.35 * lung)
    hu += noise
    np.clip(hu, -1024, 3071, out=hu)
    _cut_field_of_view(hu, plan)
    stored = np.round(hu).astype("<i2")
    return np.ascontiguousarray(stored[:, ::-1, ::-1] if plan.lattice.is_flipped else stored)


def _on_lattice(field: Array, grid: CoarseGrid, lattice: Lattice) -> Array:
    for axis in range(3):
        xyz = 2 - axis
        positions = lattice.low_xyz[xyz] + np.arange(lattice.shape_zyx[axis]) * lattice.spacing_xyz[xyz]
        field = interpolate_axis(field, axis, (positions - grid.start_xyz[xyz]) / STEP_MM)
    return field


def _tissues(plan: ScanPlan) -> tuple[Array, Array]:
    """HU without vessels, lesions and noise, and each voxel's share of lung."""
    thorax, lattice = plan.thorax, plan.lattice
    hu = _on_lattice(thorax.tissue_hu, thorax.grid, lattice)
    bone = _on_lattice(thorax.bone, thorax.grid, lattice)
    marrow = np.clip(0.5 - bone, 0, 1)
    cortex = np.clip(1.2 - np.abs(bone + 0.6), 0, 1) * np.float32(0.7)
    hu += (MARROW_HU - hu) * marrow
    hu += (CORTEX_HU - hu) * cortex
    hu += (AIR_HU - hu) * np.clip(0.5 + _on_lattice(thorax.body, thorax.grid, lattice), 0, 1)
    lung = np.clip(0.5 - _on_lattice(thorax.lung, thorax.grid, lattice), 0, 1)
    inside = _on_lattice(thorax.lung_hu, thorax.grid, lattice)
    inside += 260 * np.clip(1 - _on_lattice(thorax.fissure, thorax.grid, lattice) / np.float32(0.7), 0, 1)
    hu += (inside - hu) * lung
    return hu, lung


def _share_of_voxels(tubes: Tubes, lattice: Lattice) -> Array:
    """How much of each voxel lies in the tubes, at most 1: the tubes are filled with points, each a small volume."""
    margin = 4.0
    kept = (tubes.radius_mm > 0) & (
        (np.maximum(tubes.start_xyz, tubes.end_xyz) > lattice.low_xyz - margin)
        & (np.minimum(tubes.start_xyz, tubes.end_xyz) < lattice.high_xyz + margin)
    ).all(axis=1)
    start, along = tubes.start_xyz[kept], (tubes.end_xyz - tubes.start_xyz)[kept]
    radius, density = tubes.radius_mm[kept], tubes.density[kept]
    length = np.linalg.norm(along, axis=1)
    rings = np.maximum(np.ceil(length / GRAIN_MM), 1).astype(int)
    per_ring = np.maximum(np.round(np.pi * (radius / GRAIN_MM) ** 2), 1).astype(int)
    piece = np.repeat(np.arange(len(start)), rings * per_ring)
    first = np.repeat(np.cumsum(rings * per_ring) - rings * per_ring, rings * per_ring)
    ring, spoke = np.divmod(np.arange(len(piece)) - first, per_ring[piece])
    across = _across(along / np.maximum(length, 1e-6)[:, None])
    turn = 2.399963 * spoke + 1.7 * ring
    out = radius[piece] * np.sqrt((spoke + 0.5) / per_ring[piece]) * (per_ring[piece] > 1)
    points = start[piece] + along[piece] * ((ring + 0.5) / rings[piece])[:, None]
    points += across[0][piece] * (out * np.cos(turn))[:, None] + across[1][piece] * (out * np.sin(turn))[:, None]
    volume = (np.pi * radius**2 * length * density / (rings * per_ring))[piece] / np.prod(lattice.spacing_xyz)
    return _splat(points, volume, lattice)


def _across(along: Array) -> tuple[Array, Array]:
    """Two unit vectors at right angles to each direction and to each other."""
    other = np.where(np.abs(along[:, :1]) < 0.6, [[1.0, 0, 0]], [[0, 1.0, 0]])
    first = np.cross(along, other)
    first /= np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-6)
    return first, np.cross(along, first)


def _splat(points_xyz: Array, volume: Array, lattice: Lattice) -> Array:
    """Spread each point's volume over the eight voxels around it; clipped to [0, 1]."""
    position = ((points_xyz - lattice.low_xyz) / lattice.spacing_xyz)[:, ::-1]
    shape = np.array(lattice.shape_zyx)
    inside = ((position >= 0) & (position < shape - 1)).all(axis=1)
    position, volume = position[inside], volume[inside]
    low = position.astype(np.intp)
    part = position - low
    flat = (low[:, 0] * shape[1] + low[:, 1]) * shape[2] + low[:, 2]
    corners, weights = [], []
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                corners.append(flat + (dz * shape[1] + dy) * shape[2] + dx)
                weights.append(volume * _weight(part[:, 0], dz) * _weight(part[:, 1], dy) * _weight(part[:, 2], dx))
    total = np.bincount(np.concatenate(corners), np.concatenate(weights), minlength=int(np.prod(shape)))
    return np.minimum(total, 1.0).astype(np.float32).reshape(lattice.shape_zyx)


def _weight(part: Array, upper: int) -> Array:
    return part if upper else 1 - part


def _fill(hu: Array, share: Array, filling_hu: float) -> None:
    hu += (np.float32(filling_hu) - hu) * share


def _add_blob(hu: Array, blob: Blob, lattice: Lattice) -> None:
    """Raise the voxels around the blob to its density by the share of them it fills; sub-slices make up a slice."""
    sub = max(int(np.ceil(lattice.spacing_xyz[2] / 0.8)), 1)
    windows, axes = [], []
    for axis in range(3):
        xyz = 2 - axis
        centre = (blob.centre_xyz[xyz] - lattice.low_xyz[xyz]) / lattice.spacing_xyz[xyz]
        reach = blob.reach_mm / lattice.spacing_xyz[xyz] + 1
        low, high = max(int(centre - reach), 0), min(int(centre + reach) + 2, lattice.shape_zyx[axis])
        if low >= high:
            return
        windows.append(slice(low, high))
        axes.append((np.arange(low, high) - centre) * lattice.spacing_xyz[xyz])
    parts = (np.arange(sub) + 0.5) / sub - 0.5
    z = (axes[0][:, None] + parts * lattice.spacing_xyz[2]).ravel()
    share = _occupancy(blob, z, axes[1], axes[2])
    share = share.reshape(-1, sub, *share.shape[1:]).mean(axis=1)
    view = hu[tuple(windows)]
    rise = np.float32(blob.hu) - view
    view += share * (rise if blob.is_hollow else np.maximum(rise, 0))


def _occupancy(blob: Blob, z: Array, y: Array, x: Array) -> Array:
    turn = (blob.shape.rotation / blob.shape.semi_axes_mm[:, None]).astype(np.float32)
    x, y, z = (
        x.astype(np.float32)[None, None, :],
        y.astype(np.float32)[None, :, None],
        z.astype(np.float32)[:, None, None],
    )
    local = [turn[k, 0] * x + turn[k, 1] * y + turn[k, 2] * z for k in range(3)]
    distance = np.sqrt(local[0] ** 2 + local[1] ** 2 + local[2] ** 2)
    steepness = float(np.prod(blob.shape.semi_axes_mm) ** (1 / 3)) / (blob.edge_mm + 0.3)
    heights, fade = blob.shape.lobe_heights, 0.51 / steepness
    share = (distance < 1).astype(np.float32)
    lobed = (distance > 1 + heights.clip(max=0).sum() - fade) & (distance < 1 + heights.clip(min=0).sum() + fade)
    share[lobed] = _share_at_edge(blob, [one[lobed] for one in local], distance[lobed], steepness)
    return np.asarray(share)


def _share_at_edge(blob: Blob, local: list[Array], distance: Array, steepness: float) -> Array:
    """The share of voxels near the surface, whose lobes and dents are what costs time."""
    edge = np.ones_like(distance)
    for direction, height in zip(blob.shape.lobe_directions.astype(np.float32), blob.shape.lobe_heights, strict=True):
        cosine = (direction[0] * local[0] + direction[1] * local[1] + direction[2] * local[2]) / np.maximum(
            distance, 0.1
        )
        edge += np.float32(height) * np.exp(LOBE_SHARPNESS * (cosine - 1))
    return np.clip(0.5 - (distance - edge) * steepness, 0, 1)


def _noise(rng: np.random.Generator, plan: ScanPlan) -> Array:
    """Unit noise with the grain of a reconstructed CT image: correlated within a slice, little across slices."""
    noise = rng.standard_normal(plan.lattice.shape_zyx, dtype=np.float32)
    sigma = 1.25 * plan.blur_mm / plan.lattice.spacing_xyz[0]
    noise = ndimage.gaussian_filter(noise, (0.35, sigma, sigma), truncate=2.5)
    return np.asarray(noise / noise.std())


def _cut_field_of_view(hu: Array, plan: ScanPlan) -> None:
    if plan.order.outside_hu is None:
        return
    rows, columns = hu.shape[1:]
    y, x = np.ogrid[:rows, :columns]
    radius = 0.5 * max(rows, columns)
    hu[:, np.hypot(y - (rows - 1) / 2, x - (columns - 1) / 2) > radius] = plan.order.outside_hu
