"""Scans and labels small enough to see through, and an MLflow that is empty."""

import locale
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import settings
from mlflow_server import MlflowServer
from repository import new_repository, repro

os.environ["no_proxy"] = "127.0.0.1,localhost"  # the tests' own servers are here, whatever proxy leads to the others


if TYPE_CHECKING:
    from mlflow import MlflowClient

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


@pytest.fixture
def dicom_lung() -> Path:
    """A real chest CT as DICOM, one series of 99 slices; it lies where the slabs do."""
    if not (SHARED / "dicom-lung").is_dir():
        pytest.skip("needs the real DICOM series in ../shared/data/dicom-lung")
    return SHARED / "dicom-lung"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the tiny data set after its first `dvc repro`; to be copied, not changed."""
    folder = new_repository(tmp_path_factory.mktemp("repro") / "project")
    assert repro(folder, mlflow="sqlite:///mlflow.db") == [
        "fetch-subsets@labels",
        "fetch-subsets@subset0",
        "fetch-subsets@subset1",
        "fetch-subsets@subset2",
        "merge-annotations",
        "build-cache",
        "train",
        "predict",
        "evaluate",
    ]
    return folder


def write_scan(
    path: Path,
    hu: np.ndarray,
    *,
    spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0),
    origin_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0),
    direction: np.ndarray | None = None,
    compressed: bool = False,
) -> Path:
    """Write `hu` (slices, rows, columns) as .mhd and .raw by SimpleITK; the reference for how we read."""
    image = sitk.GetImageFromArray(np.asarray(hu, np.int16))
    image.SetSpacing(spacing_xyz)
    image.SetOrigin(origin_xyz)
    image.SetDirection((np.eye(3) if direction is None else direction).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


AXIAL = np.eye(3)


def write_series(
    folder: Path,
    hu: np.ndarray,
    *,
    series_uid: str = "1.2.3",
    spacing_xyz: tuple[float, float, float] = (0.5, 0.7, 2.0),
    origin_xyz: tuple[float, float, float] = (-10.0, 20.0, -300.0),
    direction: np.ndarray = AXIAL,
    slope: float = 1,
    intercept: float = 0,
    compressed: bool = False,
    **tags: str,
) -> list[Path]:
    """Write `hu` (slices, rows, columns) as DICOM, a file a slice, by SimpleITK; `tags` as x0020_000e="1.2"."""
    folder.mkdir(parents=True, exist_ok=True)
    language = locale.setlocale(locale.LC_ALL)  # writing DICOM sets it to C: texts without an encoding were ASCII then
    paths = []
    for index, pixels in enumerate(hu):
        position = np.asarray(origin_xyz) + direction[:, 2] * spacing_xyz[2] * index
        paths.append(folder / f"{series_uid}-{index:03d}.dcm")
        values = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0018": f"{series_uid}.{index + 1}",
            "0008|0060": "CT",
            "0020|000d": "1.2",
            "0020|000e": series_uid,
            "0020|0013": str(index + 1),
            "0020|0032": "\\".join(f"{value:.8g}" for value in position),
            "0020|0037": "\\".join(f"{value:.8f}" for value in [*direction[:, 0], *direction[:, 1]]),
            "0028|1052": str(intercept),
            "0028|1053": str(slope),
            "0028|0100": "16",
            "0028|0101": "16",
            "0028|0102": "15",
            "0028|0103": "1",
        }
        image = sitk.GetImageFromArray(pixels[None])
        image.SetSpacing((spacing_xyz[0], spacing_xyz[1], 1.0))
        for tag, value in (values | {name[1:].replace("_", "|"): value for name, value in tags.items()}).items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(compressed)
        writer.SetFileName(str(paths[-1]))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, language)
    return paths


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Creating MLflow's tables takes seconds; they are created once and copied."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "MlflowClient":
    """An empty MLflow, which start_run will find; the working directory is a fresh one."""
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    return MlflowClient(uri)


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Not started; starting takes seconds, so the first test does and the others go on with it."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    server = MlflowServer(folder)
    yield server
    server.kill()


@pytest.fixture
def without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    return tmp_path
