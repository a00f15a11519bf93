"""The obvious design, as a baseline: the book's, crop by crop, memoized by diskcache."""

from functools import lru_cache, partial
from pathlib import Path

import diskcache
import numpy as np
import SimpleITK as sitk

from benchmarks.luna_like import SPACING_XYZ

SIZE_IRC = (32, 48, 48)
ORIGIN_XYZ = (-179, -179, -312)


@lru_cache(1)
def read_scan(path: Path) -> np.ndarray:
    """The scan as float32, clipped."""
    hu = np.array(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), np.float32)
    return np.clip(hu, -1000, 1000, out=hu)


def cut(path: Path, xyz: tuple[float, float, float]) -> np.ndarray:
    """One crop of a scan, shifted into it at the border."""
    hu = read_scan(path)
    irc = [round((x - o) / s) for x, o, s in zip(xyz, ORIGIN_XYZ, SPACING_XYZ, strict=True)][::-1]
    low = [min(max(c - n // 2, 0), m - n) for c, n, m in zip(irc, SIZE_IRC, hu.shape, strict=True)]
    return hu[tuple(slice(a, a + n) for a, n in zip(low, SIZE_IRC, strict=True))]


def memoized(folder: Path) -> partial[np.ndarray]:
    """`cut`, remembered in a cache at `folder`."""
    cache = diskcache.Cache(str(folder), eviction_policy="none", size_limit=2**40)
    return cache.memoize()(cut)
