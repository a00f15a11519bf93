import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lunaops.augment import NOISE_STARTS, Drawn, apply_augmentation, draw_augmentation
from lunaops.params import AugmentParams

AIR = -1000
OFF = AugmentParams(flip=False, offset_mm=0, scale=0, rotate_degrees=0, noise_hu=0)
ALL = AugmentParams(flip=True, offset_mm=2, scale=0.2, rotate_degrees=180, noise_hu=25)
CUBES = (1.0, 1.0, 1.0)


def nothing(num: int = 1) -> Drawn:
    return draw_augmentation(num, OFF, torch.Generator())


def drawn(params: AugmentParams, num: int, seed: int = 0) -> Drawn:
    return draw_augmentation(num, params, torch.Generator().manual_seed(seed))


def applied(hu: torch.Tensor, what: Drawn, spacing_irc: tuple[float, ...] = CUBES) -> torch.Tensor:
    """The crops varied; the given ones stay as they are."""
    return apply_augmentation(hu.clone(), what, torch.tensor(spacing_irc).expand(len(hu), 3), pad_hu=AIR)


def noisy_crops(num: int, shape: tuple[int, ...] = (16, 18, 20)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(-1000, 1000, (num, 1, *shape), generator=generator, dtype=torch.int16)


def one_voxel(shape: tuple[int, int, int], *place: int) -> torch.Tensor:
    hu = torch.full((1, 1, *shape), float(AIR))
    hu[0, 0][place] = 500.0
    return hu


def brightest(hu: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(place) for place in np.unravel_index(int(hu[0, 0].argmax()), hu.shape[2:]))


def ball(shape: tuple[int, ...], spacing_irc: tuple[float, ...], center_mm: torch.Tensor, sigma_mm: float):
    """A crop from -1000 to 0 HU with a soft ball, round in mm, so far from its shape // 2; the distances to that."""
    places = torch.stack(torch.meshgrid(*(torch.arange(n) - n // 2 for n in shape), indexing="ij"), dim=-1)
    distance = (places * torch.tensor(spacing_irc) - center_mm).norm(dim=-1)[None, None]
    return AIR + 1000 * torch.exp(-0.5 * (distance / sigma_mm) ** 2), distance


# Mirroring


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_crop_is_mirrored_along_the_axis_drawn_for_it_and_its_neighbour_is_not(axis: int) -> None:
    crops, what = noisy_crops(2), nothing(2)
    what.flip[1, axis] = True
    mirrored = applied(crops, what)
    assert torch.equal(mirrored[0], crops[0])
    assert torch.equal(mirrored[1], crops[1].flip(axis + 1))
    assert mirrored.dtype == torch.int16


def test_all_eight_mirrorings_are_those_of_their_axes() -> None:
    crops, what = noisy_crops(8), nothing(8)
    what.flip[:] = torch.tensor([[bool(number & bit) for bit in (4, 2, 1)] for number in range(8)])
    for crop, mirrored, axes in zip(crops, applied(crops, what), what.flip, strict=True):
        assert torch.equal(mirrored, crop.flip([axis + 1 for axis in range(3) if axes[axis]]))


def test_what_is_off_leaves_the_batch_untouched() -> None:
    crops = noisy_crops(3)
    assert apply_augmentation(crops, nothing(3), torch.ones(3, 3), pad_hu=AIR) is crops
    assert torch.equal(crops, noisy_crops(3))


# Geometry


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("voxels", [-3, 2])
def test_an_offset_moves_the_content_by_its_millimetres_towards_higher_indices(axis: int, voxels: int) -> None:
    spacing = (2.5, 0.7, 0.5)
    what = nothing()
    what.offset_mm[0, axis] = voxels * spacing[axis]
    wanted = [8, 9, 10]
    wanted[axis] += voxels
    moved = applied(one_voxel((16, 18, 20), 8, 9, 10), what, spacing)
    assert brightest(moved) == tuple(wanted)
    torch.testing.assert_close(moved, one_voxel((16, 18, 20), *wanted), rtol=0, atol=0.01)


def test_half_a_voxel_is_interpolated_between_its_neighbours() -> None:
    what = nothing()
    what.offset_mm[0] = torch.tensor([0.5, 0.0, 0.5])
    moved = applied(one_voxel((16, 16, 16), 8, 8, 8), what)
    torch.testing.assert_close(moved[0, 0, 8:10, 8, 8:10], torch.full((2, 2), AIR + 1500 / 4), rtol=0, atol=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_what_comes_from_outside_the_crop_is_air(axis: int, sign: int) -> None:
    what = nothing()
    what.offset_mm[0, axis] = 4.0 * sign
    moved = applied(torch.full((1, 1, 16, 16, 16), 40.0), what)[0, 0].movedim(axis, 0)
    empty, full = (moved[:4], moved[4:]) if sign > 0 else (moved[12:], moved[:12])
    torch.testing.assert_close(empty, torch.full_like(empty, AIR), rtol=0, atol=0.01)
    torch.testing.assert_close(full, torch.full_like(full, 40.0), rtol=0, atol=0.01)


def test_a_turn_goes_from_the_columns_axis_to_the_rows() -> None:
    turned = applied(one_voxel((16, 17, 17), 3, 8, 8 + 5), replace(nothing(), degrees=torch.tensor([90.0])))
    assert brightest(turned) == (3, 8 + 5, 8)


def test_a_quarter_turn_is_the_exact_one() -> None:
    crops = noisy_crops(1, (16, 17, 17)).float()
    turned = applied(crops, replace(nothing(), degrees=torch.tensor([90.0])))
    torch.testing.assert_close(turned, crops.transpose(-2, -1).flip(-1), rtol=0, atol=0.02)


def test_on_an_even_grid_the_turn_is_about_the_candidates_voxel_and_not_the_middle() -> None:
    crops = noisy_crops(1, (16, 16, 16)).float()
    turned = applied(crops, replace(nothing(), degrees=torch.tensor([90.0])))
    exact = crops[..., 1:, 1:].transpose(-2, -1).flip(-1)
    torch.testing.assert_close(turned[..., 1:, 1:], exact, rtol=0, atol=0.02)
    torch.testing.assert_close(turned[..., 0], torch.full((1, 1, 16, 16), float(AIR)), rtol=0, atol=0.02)


@pytest.mark.parametrize("shape", [(16, 17, 17), (16, 18, 20), (17, 48, 48)])
def test_a_full_turn_gives_the_crop_back(shape: tuple[int, int, int]) -> None:
    crops = noisy_crops(2, shape).float()
    turned = applied(crops, replace(nothing(2), degrees=torch.tensor([360.0, -360.0])), (2.5, 0.6, 0.9))
    torch.testing.assert_close(turned, crops, rtol=0, atol=0.05)


def test_a_ball_in_the_middle_stays_the_same_ball_whatever_the_voxels() -> None:
    spacing, shape = (2.5, 0.6, 1.0), (16, 40, 32)
    crop, distance = ball(shape, spacing, torch.zeros(3), 4.0)
    turned = applied(crop, replace(nothing(), degrees=torch.tensor([40.0])), spacing)
    near = distance < 8
    assert (turned - crop)[near].abs().max() < 12  # a turn in voxels would be some 200 HU off


def test_a_scaled_ball_is_a_ball_of_the_scaled_radius() -> None:
    spacing, shape = (1.25, 0.6, 1.0), (24, 40, 32)
    crop, distance = ball(shape, spacing, torch.zeros(3), 3.0)
    larger, _ = ball(shape, spacing, torch.zeros(3), 1.5 * 3.0)
    scaled = applied(crop, replace(nothing(), scale=torch.tensor([1.5])), spacing)
    assert (scaled - larger)[distance < 8].abs().max() < 45
    assert (scaled - crop)[distance < 8].abs().max() > 200


length_mm = st.floats(-1.5, 1.5)
pixel_mm = st.floats(0.55, 0.9)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.floats(0.8, 1.25), pixel_mm, pixel_mm),
    st.tuples(length_mm, length_mm, length_mm),
    st.tuples(length_mm, length_mm, length_mm),
    st.floats(-180, 180),
    st.floats(0.85, 1.2),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_a_ball_goes_where_the_millimetres_say(
    spacing: tuple[float, ...],
    center: tuple[float, ...],
    offset: tuple[float, ...],
    degrees: float,
    scale: float,
    flip: tuple[bool, ...],
) -> None:
    """Mirrored first (on odd grids: about the middle), then turned, scaled, shifted; and still round."""
    shape, sigma = (21, 33, 35), 2.5
    crop, _ = ball(shape, spacing, torch.tensor(center), sigma)
    what = Drawn(
        torch.tensor([flip]),
        torch.tensor([offset]),
        torch.tensor([scale]),
        torch.tensor([degrees]),
        torch.zeros(1),
        torch.zeros(1, dtype=torch.int64),
    )
    i, r, c = (-x if mirrored else x for x, mirrored in zip(center, flip, strict=True))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = torch.tensor([i, cos * r + sin * c, -sin * r + cos * c])
    wanted, distance = ball(shape, spacing, scale * turned + torch.tensor(offset), scale * sigma)
    curvature = 1000 / sigma**2  # linear interpolation is off by at most this times spacing² / 8, summed over the axes
    tolerance = 1 + curvature * sum(mm**2 for mm in spacing) / 8
    assert (applied(crop, what, spacing) - wanted)[distance < 3.5].abs().max() < tolerance


# Noise


def test_noise_has_its_standard_deviation_and_no_mean() -> None:
    crops = torch.zeros(4, 1, 32, 48, 48)
    noise = applied(crops, drawn(OFF.model_copy(update={"noise_hu": 25.0}), 4))
    assert noise.std(dim=(1, 2, 3, 4)).tolist() == pytest.approx([25.0] * 4, rel=0.02)
    assert noise.mean(dim=(1, 2, 3, 4)).tolist() == pytest.approx([0.0] * 4, abs=0.5)


def test_each_crop_has_noise_of_its_own() -> None:
    noise = applied(torch.zeros(6, 1, 16, 16, 16), drawn(OFF.model_copy(update={"noise_hu": 25.0}), 6)).flatten(1)
    assert (torch.corrcoef(noise) - torch.eye(6)).abs().max() < 0.1


def test_neighbouring_voxels_have_unlike_noise() -> None:
    noise = applied(torch.zeros(1, 1, 32, 32, 32), drawn(OFF.model_copy(update={"noise_hu": 1.0}), 1))[0, 0]
    for axis in range(3):
        assert abs((noise * noise.roll(1, dims=axis)).mean()) < 0.03


def test_noise_is_added_to_what_was_there() -> None:
    crops, what = noisy_crops(3), drawn(OFF.model_copy(update={"noise_hu": 25.0}), 3)
    noise = applied(torch.zeros(crops.shape), what)
    torch.testing.assert_close(applied(crops, what), crops + noise)


# Replaying


def test_the_same_parameters_give_the_same_voxels_bit_for_bit() -> None:
    crops, what = noisy_crops(5), drawn(ALL, 5)
    assert torch.equal(applied(crops, what), applied(crops, what))


@pytest.mark.parametrize("rows", [slice(0, 3), slice(2, 7), slice(6, 7), torch.tensor([5, 0, 3])])
@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 19, 21)])
def test_a_crop_is_varied_alike_in_every_batch_bit_for_bit(rows: slice | torch.Tensor, shape: tuple[int, ...]) -> None:
    crops, what = noisy_crops(7, shape), drawn(ALL, 7)
    spacing = torch.rand(7, 3, generator=torch.Generator().manual_seed(1)) + 0.5
    whole = apply_augmentation(crops.clone(), what, spacing, pad_hu=AIR)
    part = apply_augmentation(crops[rows].clone(), what.rows(rows), spacing[rows], pad_hu=AIR)
    assert torch.equal(part, whole[rows])


def test_a_crop_that_is_not_moved_keeps_its_voxels_among_others_that_are() -> None:
    crops, what = noisy_crops(2), nothing(2)
    what.offset_mm[1] = 1.3
    varied = applied(crops, what)
    assert torch.equal(varied[0], crops[0].float())
    assert not torch.equal(varied[1], crops[1].float())


def test_int16_and_float32_crops_become_the_same_float32_voxels() -> None:
    crops, what = noisy_crops(4), drawn(ALL, 4)
    varied = applied(crops, what)
    assert varied.dtype == torch.float32
    assert torch.equal(varied, applied(crops.float(), what))


# Drawing


def test_what_is_drawn_is_spread_over_what_the_parameters_allow() -> None:
    what = drawn(ALL, 4000)
    assert (what.flip.float().mean(dim=0) - 0.5).abs().max() < 0.03
    assert abs((what.flip[:, 0] & what.flip[:, 2]).float().mean() - 0.25) < 0.03
    assert 1.95 < what.offset_mm.abs().amax(dim=0).min() <= what.offset_mm.abs().max() <= 2
    assert what.offset_mm.mean(dim=0).abs().max() < 0.08
    assert what.scale.min().item() == pytest.approx(1 / 1.2, rel=0.01)
    assert what.scale.max().item() == pytest.approx(1.2, rel=0.01)
    assert abs((what.scale < 1).float().mean() - 0.5) < 0.03
    assert 175 < what.degrees.max() <= 180
    assert -180 <= what.degrees.min() < -175
    assert what.noise_hu.unique().tolist() == [25.0]
    assert 0 <= what.noise_start.min() < what.noise_start.max() < NOISE_STARTS
    assert torch.corrcoef(what.offset_mm.T)[0, 1].abs() < 0.05


def test_off_draws_nothing_to_do() -> None:
    what = drawn(OFF, 100)
    assert not what.flip.any()
    assert not what.is_moved().any()
    assert not what.noise_hu.any()


@pytest.mark.parametrize("name", ["offset_mm", "scale", "rotate_degrees"])
def test_each_parameter_alone_moves_the_crops(name: str) -> None:
    assert drawn(OFF.model_copy(update={name: getattr(ALL, name)}), 9).is_moved().all()


def test_the_same_generator_draws_the_same_and_goes_on_to_others() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (draw_augmentation(9, ALL, generator).degrees for _ in range(2))
    assert torch.equal(first, drawn(ALL, 9).degrees)
    assert not torch.equal(first, second)


def test_what_one_parameter_draws_does_not_depend_on_the_others() -> None:
    assert torch.equal(drawn(ALL, 9).scale, drawn(OFF.model_copy(update={"scale": 0.2}), 9).scale)
