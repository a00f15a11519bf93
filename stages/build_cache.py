"""Stage build-cache: cut every candidate out of its scan, once."""

from pathlib import Path

from lunaops.command import run
from lunaops.crop_building import build_blocks
from lunaops.crop_store import cache_folder
from lunaops.crops import Geometry, Manifest, write_manifest
from lunaops.params import read_params
from lunaops.progress import progress
from lunaops.tables import read_table


def main(raw: Path, scans: Path, candidates: Path, manifest: Path, params_file: Path = Path("params.yaml")) -> None:
    """Fill the crop cache (LUNAOPS_CACHE_DIR, else the user's cache folder) and write its MANIFEST."""
    params = read_params(params_file)
    geometry = Geometry(params.crop.size_irc, params.crop.hu_range, params.crop.pad_hu)
    scan_table = read_table(scans)
    blocks = build_blocks(
        scan_table,
        read_table(candidates),
        raw=raw,
        geometry=geometry,
        folder=cache_folder(),
        workers=params.crop.workers,
    )
    done = tuple(progress(blocks, total=len(scan_table), label="crops", unit="scans"))
    write_manifest(Manifest(geometry, done), manifest)


if __name__ == "__main__":
    run(main)
