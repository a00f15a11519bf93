"""Stage fetch-subsets: obtain one part of LUNA16."""

from pathlib import Path

from lunaops.command import run
from lunaops.cores import num_cores
from lunaops.errors import InputError
from lunaops.params import read_params
from lunaops.sources.staging import staged
from lunaops.subsets import PARTS


def main(part: str, folder: Path, archives: Path, params_file: Path = Path("params.yaml")) -> None:
    """Obtain one part (labels, subset0 ... subset9) from the source that fetch.source names.

    FOLDER then holds its .mhd headers and .raw voxels, or the CSV files; it is complete or not there.
    ARCHIVES keeps downloads (source zenodo) outside the folder, so that a broken one is resumed, and what was
    unpacked from them: what FOLDER still holds of it is not downloaded again.
    """
    params = read_params(params_file)
    if part not in PARTS:
        raise InputError(f"--part {part}: no such part; LUNA16 has {', '.join(PARTS)}")
    with staged(folder) as staging:
        match params.fetch.source:
            case "phantom":  # each is imported where it is used: the phantom wants six starts, and no network or ITK
                from lunaops.sources import phantom

                phantom.write_part(part, staging, params.phantom, workers=num_cores())
            case "directory":
                from lunaops.sources import directory

                scans = params.fetch.directory
                assert scans is not None  # read_params has seen to it
                labels = Path(params.fetch.labels_directory or scans)
                directory.fetch_part(
                    part,
                    staging,
                    Path(scans),
                    labels,
                    replaced=folder,
                    copy=params.fetch.copy_scans,
                    workers=num_cores(),
                )
            case "zenodo":
                from lunaops.sources import zenodo

                zenodo.fetch_part(
                    part,
                    staging,
                    archives,
                    previous=folder,
                    base_url=params.fetch.base_url,
                )
    if params.fetch.source == "zenodo" and not params.fetch.keep_archives:
        zenodo.remove_archives(part, archives)  # now that what they held is in its place


if __name__ == "__main__":
    run(main)
