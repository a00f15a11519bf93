"""Augmentation of whole batches: draw the parameters, then apply them.

A crop is mirrored exactly, voxel for voxel. Whatever else moves it is one affine map in millimetres about the
candidate's voxel, which lies at the crop's shape // 2: it is turned about the slice axis (head-foot in a transverse
scan), scaled, then shifted. As slices stay slices, one is first interpolated between two of the crop's, then in its
plane by a 2-D grid_sample whose channels are the slices: the trilinear sample, at a fraction of the 3-D one's cost.
"""

from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from lunaops.params import AugmentParams

NOISE_STARTS = 2**20  # so many noises are told apart; a crop's is a stretch of one long row of normal numbers


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is done to each of N crops, on the CPU; a row means the same in whatever batch it stands.

    `flip` (N, 3) bool and `offset_mm` (N, 3) go by slices, rows, columns, the offset towards higher ones; `scale` (N,)
    above 1 enlarges; `degrees` (N,) turn from the columns' axis to the rows'; `noise_hu` (N,) is a standard deviation
    and `noise_start` (N,) int64, below NOISE_STARTS, says which noise.
    """

    flip: Tensor
    offset_mm: Tensor
    scale: Tensor
    degrees: Tensor
    noise_hu: Tensor
    noise_start: Tensor

    def rows(self, chosen: slice | Tensor) -> "Drawn":
        """What is done to some of the crops."""
        return Drawn(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def is_moved(self) -> Tensor:
        """Which crops must be interpolated, (N,) bool."""
        return (self.offset_mm != 0).any(dim=1) | (self.scale != 1) | (self.degrees != 0)


def draw_augmentation(num: int, params: AugmentParams, generator: torch.Generator) -> Drawn:
    """Draw what is done to `num` crops; `generator` is the CPU's.

    What one parameter allows is drawn alike whether the others are on or off. Scales are as often below 1 as above.
    """
    share = torch.rand((num, 9), generator=generator, dtype=torch.float64)
    around_0 = 2 * share - 1
    return Drawn(
        flip=(share[:, :3] < 0.5) & params.flip,
        offset_mm=params.offset_mm * around_0[:, 3:6],
        scale=(1 + params.scale) ** around_0[:, 6],
        degrees=params.rotate_degrees * around_0[:, 7],
        noise_hu=torch.full((num,), float(params.noise_hu)),
        noise_start=(NOISE_STARTS * share[:, 8]).long(),
    )


def apply_augmentation(hu: Tensor, drawn: Drawn, spacing_irc: Tensor, *, pad_hu: int) -> Tensor:
    """The crops (N, 1, I, R, C), int16 or float32 on any device, varied as `drawn` says; `hu` may be overwritten.

    `spacing_irc` (N, 3), on the CPU, are the voxels' mm. What comes from outside a crop is `pad_hu`. The result is
    float32 where crops were interpolated or noise was added, else of the type of `hu`. A crop's voxels depend, bit for
    bit on one device, on nothing but the crop, its row of `drawn` and its spacing.
    """
    _flip(hu, drawn.flip)
    moved = drawn.is_moved()
    if moved.any():
        resampled = _resample(hu, _coefficients(hu, drawn, spacing_irc), pad_hu)
        chosen = moved.to(hu.device, non_blocking=True).view(-1, 1, 1, 1, 1)
        hu = resampled if moved.all() else torch.where(chosen, resampled, hu)
    if drawn.noise_hu.any():
        hu = _noise(hu, drawn).add_(hu)
    return hu


def _flip(hu: Tensor, flip: Tensor) -> None:
    """Mirror in place; crops that are mirrored along the same axes go together, so a GPU gets few, large pieces."""
    pattern = (flip * torch.tensor([1, 2, 4])).sum(dim=1)
    for number in range(1, 8):
        chosen = (pattern == number).nonzero().flatten()
        if len(chosen):
            chosen = chosen.to(hu.device, non_blocking=True)
            axes = [axis + 2 for axis in range(3) if number >> axis & 1]
            hu.index_copy_(0, chosen, hu.index_select(0, chosen).flip(axes))


def _coefficients(hu: Tensor, drawn: Drawn, spacing_irc: Tensor) -> Tensor:
    """(N, 8): where the voxel that is (i, r, c) voxels off the result's candidate comes from in the crop.

    Of its index: constant, factor of i. Of its row, then of its column, in grid_sample's coordinates, which go from -1
    at one edge of the crop to 1 at the other: constant, factor of r, factor of c.
    """
    size = torch.tensor(hu.shape[2:], dtype=torch.float64)
    i_mm, r_mm, c_mm = spacing_irc.double().unbind(dim=1)
    radians = torch.deg2rad(drawn.degrees.double())
    cos, sin = radians.cos() / drawn.scale, radians.sin() / drawn.scale  # from the result back into the crop
    i_off, r_off, c_off = drawn.offset_mm.double().unbind(dim=1)
    index, row, column = size // 2
    from_index = [index - i_off / (drawn.scale * i_mm), 1 / drawn.scale]
    from_row = [row - (cos * r_off - sin * c_off) / r_mm, cos, -sin * c_mm / r_mm]
    from_column = [column - (sin * r_off + cos * c_off) / c_mm, sin * r_mm / c_mm, cos]
    for along, voxels in ((from_row, size[1]), (from_column, size[2])):
        along[:] = [(2 * along[0] + 1) / voxels - 1, 2 * along[1] / voxels, 2 * along[2] / voxels]
    return torch.stack([*from_index, *from_row, *from_column], dim=1).float()


def _resample(hu: Tensor, coefficients: Tensor, pad_hu: int) -> Tensor:
    """Interpolate linearly, once.

    Multiplications and additions stay apart: a fused one rounds otherwise, and only where a vector register is filled.
    """
    num, _, *size = hu.shape
    steps_i, steps_r, steps_c = (torch.arange(n, device=hu.device, dtype=torch.float32) - n // 2 for n in size)
    index, per_i, *in_plane = coefficients.to(hu.device, non_blocking=True)[:, :, None, None].unbind(dim=1)
    row, row_per_r, row_per_c, column, column_per_r, column_per_c = in_plane
    y = row_per_c * steps_c + (row_per_r * steps_r[:, None] + row)
    x = column_per_c * steps_c + (column_per_r * steps_r[:, None] + column)
    above_pad = _between_slices(hu.float().sub_(pad_hu), (per_i * steps_i + index).view(num, -1))
    sampled = F.grid_sample(above_pad, torch.stack([x, y], dim=-1), align_corners=False)
    return sampled.add_(pad_hu)[:, None]


def _between_slices(hu: Tensor, index: Tensor) -> Tensor:
    """Slices (N, I, R, C) at fractional indices (N, I) of the crops (N, 1, I, R, C); 0 outside of these."""
    num, _, depth, rows, columns = hu.shape
    below = index.floor()
    first = depth * torch.arange(num, device=hu.device)[:, None]
    slices = hu.view(num * depth, rows * columns)
    parts = []
    for place in (below, below + 1):
        weight = (1 - (index - place).abs()) * ((place >= 0) & (place < depth))
        chosen = slices.index_select(0, (first + place.long().clamp(0, depth - 1)).flatten())
        parts.append(chosen.mul_(weight.view(-1, 1)))
    return parts[0].add_(parts[1]).view(num, depth, rows, columns)


def _noise(hu: Tensor, drawn: Drawn) -> Tensor:
    row = _normal_numbers(NOISE_STARTS + hu[0].numel(), hu.device)
    start, noise_hu = (column.to(hu.device, non_blocking=True) for column in (drawn.noise_start, drawn.noise_hu))
    noise = row.unfold(0, hu[0].numel(), 1).index_select(0, start)
    return noise.mul_(noise_hu.float()[:, None]).view(hu.shape)


@cache
def _normal_numbers(num: int, device: torch.device) -> Tensor:
    """Always the same `num` numbers: drawn on the CPU, so that every device adds the same noise."""
    return torch.randn(num, generator=torch.Generator().manual_seed(0)).to(device)
