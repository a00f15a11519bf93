"""Scans and labels small enough to see through."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import settings

settings.register_profile("lunaops", deadline=None)  # the machines that run this are shared and noisy
settings.load_profile("lunaops")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture
def slabs() -> Path:
    """Slabs of three real LUNA16 scans; they lie beside the project where it is built, and nowhere else."""
    if not (SHARED / "luna16-slabs").is_dir():
        pytest.skip("needs the real slabs in ../shared/data/luna16-slabs")
    return SHARED / "luna16-slabs"


def write_scan(
    path: Path,
    hu: np.ndarray,
    *,
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: np.ndarray | None = None,
) -> Path:
    """Write `hu` (slices, rows, columns) as .mhd and .raw by SimpleITK; the reference for how we read."""
    image = sitk.GetImageFromArray(np.asarray(hu, np.int16))
    image.SetSpacing(spacing_xyz)
    image.SetOrigin(origin_xyz)
    image.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path
