"""Augmentation of whole batches: draw the parameters, then apply them."""

import torch
from torch import Tensor

from lunaops.errors import InputError
from lunaops.params import AugmentParams


def draw_turns(num: int, params: AugmentParams, generator: torch.Generator) -> Tensor:
    """What is done to each of `num` crops, each with probability 1/2: (num, 4) bool, on the CPU.

    The columns: mirrored along slices, along rows, along columns; rows and columns swapped.
    """
    drawn = torch.rand((num, 4), generator=generator) < 0.5
    return drawn & torch.tensor([params.flip] * 3 + [params.transpose])


def apply_turns(hu: Tensor, turns: Tensor) -> Tensor:
    """Mirror and swap the crops (N, 1, I, R, C) as `turns` (N, 4) says, in place; returns `hu`.

    Rows and columns have one spacing, so swapping them distorts nothing. Raises InputError where crops are to be
    swapped that are not as high as wide.
    """
    for axis in range(3):
        chosen = turns[:, axis].nonzero().flatten().to(hu.device)
        hu[chosen] = hu[chosen].flip(axis + 2)
    swapped = turns[:, 3].nonzero().flatten().to(hu.device)
    if len(swapped) and hu.shape[-2] != hu.shape[-1]:
        raise InputError(f"augment.transpose wants crops as high as wide, crop.size_irc is {list(hu.shape[2:])}")
    hu[swapped] = hu[swapped].transpose(-2, -1)
    return hu
