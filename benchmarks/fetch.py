"""A part from a local server: download, check and unpack, against curl and unzip, in turns.

    python -m benchmarks.fetch

Both get the same zip of 300 MB, deflated 16-bit voxels, from one server on 127.0.0.1. Ours also computes the MD5, reads
the headers and puts the part in its place by a rename. Prints medians of the rounds, of the time and of the CPU's time.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np

from lunaops.sources import zenodo
from lunaops.sources.staging import staged
from lunaops.subsets import RemoteFile

ROUNDS = 3
SCANS = 7
SHAPE_IRC = (150, 512, 512)  # 79 MB a scan
NOISE_HU = 85  # uniform: packs to 0.53, LUNA16 to 0.55
HEADER = (
    "ObjectType = Image\nNDims = 3\nDimSize = 512 512 150\nOffset = 0 0 0\nElementSpacing = 1 1 1\n"
    "ElementType = MET_SHORT\nElementDataFile = {}.raw\n"
)


def write_archive(path: Path) -> None:
    """Scans as LUNA16 packs them."""
    draw = np.random.default_rng(16)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(SCANS):
            archive.writestr(f"subset0/1.{number}.mhd", HEADER.format(f"1.{number}"))
            voxels = draw.integers(-1000, -1000 + NOISE_HU, SHAPE_IRC, np.int16)
            archive.writestr(f"subset0/1.{number}.raw", voxels.tobytes())


def fetch_ours(place: Path, origin: str, file: RemoteFile) -> None:
    """What the stage does."""
    with staged(place / "subset0") as staging:
        zenodo.fetch_part(
            "subset0",
            staging,
            place / "archives",
            previous=place / "subset0",
            base_url=origin,
            files={"subset0": (file,)},
        )


def fetch_plain(place: Path, origin: str, file: RemoteFile) -> None:
    """What a person would type."""
    place.mkdir()
    url = f"{origin}/records/{file.record}/files/{file.name}"
    subprocess.run(["curl", "--silent", "-o", place / file.name, url], check=True)
    subprocess.run(["unzip", "-q", place / file.name, "-d", place], check=True)


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def main() -> None:
    """Print both sides."""
    seconds: dict[str, list[tuple[float, float]]] = {"curl and unzip": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        path = place / "records" / "7" / "files" / "subset0.zip"
        path.parent.mkdir(parents=True)
        write_archive(path)
        file = RemoteFile(path.name, 7, path.stat().st_size, md5(path.read_bytes(), usedforsecurity=False).hexdigest())
        serve = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", folder]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            assert server.stdout
            origin = "http://127.0.0.1:" + server.stdout.readline().split("port ")[1].split()[0]
            for _ in range(ROUNDS):
                for name, fetch in (("curl and unzip", fetch_plain), ("ours", fetch_ours)):
                    started = time.perf_counter(), cpu_seconds()
                    fetch(place / "part", origin, file)
                    seconds[name].append((time.perf_counter() - started[0], cpu_seconds() - started[1]))
                    shutil.rmtree(place / "part")
            server.terminate()
    megabytes = SCANS * 2 * np.prod(SHAPE_IRC) / 1e6
    assert file.size
    print(f"archive {file.size / 1e6:.0f} MB, unpacked {megabytes:.0f} MB\n")
    print("| fetch | s | MB/s unpacked | CPU s | times curl and unzip |\n|---|---|---|---|---|")
    walls = {name: statistics.median(wall for wall, _ in values) for name, values in seconds.items()}
    for name, values in seconds.items():
        wall, cpu = walls[name], statistics.median(cpu for _, cpu in values)
        ratio = walls["curl and unzip"] / wall
        print(f"| {name} | {wall:.2f} | {megabytes / wall:.0f} | {cpu:.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    os.environ["no_proxy"] = "127.0.0.1"
    main()
