import pytest
import torch

from lunaops.augment import apply_turns, draw_turns
from lunaops.errors import InputError
from lunaops.params import AugmentParams

CROPS = torch.arange(2 * 2 * 3 * 3, dtype=torch.int16).reshape(2, 1, 2, 3, 3)
ON, OFF = AugmentParams(flip=True, transpose=True), AugmentParams(flip=False, transpose=False)


def turns_of_second(column: int) -> torch.Tensor:
    turns = torch.zeros(2, 4, dtype=torch.bool)
    turns[1, column] = True
    return turns


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_crop_is_mirrored_along_the_axis_drawn_for_it_and_its_neighbour_is_not(axis: int) -> None:
    turned = apply_turns(CROPS.clone(), turns_of_second(axis))
    assert torch.equal(turned[0], CROPS[0])
    assert torch.equal(turned[1], CROPS[1].flip(axis + 1))


def test_swapping_exchanges_rows_and_columns() -> None:
    turned = apply_turns(CROPS.clone(), turns_of_second(3))
    assert torch.equal(turned[0], CROPS[0])
    assert torch.equal(turned[1, 0, 1], CROPS[1, 0, 1].T)


def test_mirroring_twice_gives_the_crops_back() -> None:
    turns = draw_turns(2, AugmentParams(flip=True, transpose=False), torch.Generator().manual_seed(3))
    assert torch.equal(apply_turns(apply_turns(CROPS.clone(), turns), turns), CROPS)


def test_a_crop_that_is_wider_than_high_cannot_be_swapped() -> None:
    with pytest.raises(
        InputError, match=r"augment.transpose wants crops as high as wide, crop.size_irc is \[2, 3, 4\]"
    ):
        apply_turns(torch.zeros(2, 1, 2, 3, 4), turns_of_second(3))


def test_each_is_drawn_for_half_of_the_crops_independently() -> None:
    turns = draw_turns(4000, ON, torch.Generator().manual_seed(0)).float()
    assert (turns.mean(dim=0) - 0.5).abs().max() < 0.03
    assert abs((turns[:, 0] * turns[:, 3]).mean() - 0.25) < 0.03


def test_off_draws_none() -> None:
    assert not draw_turns(100, OFF, torch.Generator()).any()
    assert not draw_turns(100, AugmentParams(flip=True, transpose=False), torch.Generator())[:, 3].any()


def test_the_same_generator_draws_the_same() -> None:
    first, again = (draw_turns(50, ON, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
