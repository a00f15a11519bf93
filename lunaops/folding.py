"""The network's blocks on a GPU: 3-D convolutions as 2-D ones whose channels are all slices' channels side by side.

A GPU's libraries compute a 3-D convolution of few channels many times slower than its memory allows, while 256 channels
in two dimensions are what its matrix units are made for. The 2-D weight is a band: most of it is zero, and it is
quicker all the same (benchmarks/README.md). The results are the 3-D convolutions' but for rounding.
"""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lunaops.precision import no_autocast

_MOST_CHANNELS = 512  # side by side in the first block; the default network has 256


class Block(Protocol):
    """Two convolutions, 3 x 3 x 3 with padding 1, each with a ReLU, then max-pooling by 2."""

    conv1: nn.Conv3d
    conv2: nn.Conv3d


def pays(x: Tensor, channels: int) -> bool:
    """Whether crops `x` (N, 1, I, R, C) are on a GPU whose matrix units may be used: in bf16 or tf32, not in fp32.

    And whether a network of so many `channels` in its first block has few enough: 3-D convolutions get quicker with
    them, while the share of zeros here grows with the slices. By the rates measured the two meet about there.
    """
    is_quick = x.is_cuda and (torch.is_autocast_enabled("cuda") or torch.backends.cudnn.allow_tf32)
    return is_quick and x.shape[2] * channels <= _MOST_CHANNELS


def folded_blocks(blocks: Iterable[Block], x: Tensor) -> Tensor:
    """The blocks one after another: (N, channels, I, R, C) to the last one's channels and a half of the size for each.

    In between they lie in memory as (N, R, C, I, channels).
    """
    taps = _taps(x)
    x = x.movedim(2, 4)
    for block in blocks:
        x = _convolved(block.conv1, x, taps)
        x = F.relu_(x + _bias(block.conv1, x))
        x = _convolved(block.conv2, x, taps)
        with no_autocast(x.device):
            x = F.max_pool3d(x, 2)
        x = F.relu_(x + _bias(block.conv2, x))  # a bias commutes with pooling, as the ReLU does
    return x.movedim(4, 2)


def _taps(x: Tensor) -> Tensor:
    """(3, I, I) for (N, channels, I, R, C): 1 where a slice takes the one before, itself, the next; else 0."""
    place = torch.arange(x.shape[2], device=x.device)
    off = place - place[:, None]
    return (off == torch.arange(-1, 2, device=x.device)[:, None, None]).to(x.dtype)


def _convolved(conv: nn.Conv3d, x: Tensor, taps: Tensor) -> Tensor:
    """`conv` without its bias, of (N, channels, R, C, I) to such; channels last is not laid out anew."""
    num, channels, rows, columns, slices = x.shape
    flat = x.permute(0, 2, 3, 4, 1).reshape(num, rows, columns, slices * channels).permute(0, 3, 1, 2)
    flat = flat.contiguous(memory_format=torch.channels_last)
    with no_autocast(x.device):  # an entry of the band is one weight or nothing; its gradient is a sum of many
        band = torch.einsum("tde,kctij->dkijec", taps[:, :slices, :slices], conv.weight)
    y = F.conv2d(flat, band.flatten(4).flatten(0, 1).permute(0, 3, 1, 2), padding=1)
    return y.permute(0, 2, 3, 1).view(num, rows, columns, slices, conv.out_channels).permute(0, 4, 1, 2, 3)


def _bias(conv: nn.Conv3d, x: Tensor) -> Tensor:
    assert conv.bias is not None
    return conv.bias.to(x.dtype)[:, None, None, None]
