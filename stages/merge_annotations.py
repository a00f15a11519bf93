"""Stage merge-annotations: one clean table of scans, of nodules, of excluded findings and of candidates."""

import json
from pathlib import Path

from lunaops.candidates import merge_annotations
from lunaops.cohort import count_splits, diameters_of_splits
from lunaops.command import run
from lunaops.ct import read_grid
from lunaops.labels import read_labels
from lunaops.params import read_params
from lunaops.subsets import find_scans
from lunaops.tables import Scan, write_table


def main(
    raw: Path,
    scans: Path,
    nodules: Path,
    excluded: Path,
    candidates: Path,
    report: Path,
    picture: Path,
    params_file: Path = Path("params.yaml"),
) -> None:
    """Match LUNA16's candidates to its annotations, decide the split, and write the tables.

    RAW holds labels/ and subset*/. Candidates and nodules of scans that are not there are left out and counted in
    REPORT, which says what each split holds; PICTURE shows it.
    """
    params = read_params(params_file)
    found = [
        Scan(file.series_uid, file.subset, file.path.relative_to(raw).as_posix(), read_grid(file.path))
        for file in find_scans(raw, params.fetch.parts)
    ]
    tables = merge_annotations(
        found, read_labels(raw / "labels", params.fetch.candidates), merge=params.merge, split=params.split
    )
    write_table(tables.scans, scans)
    write_table(tables.nodules, nodules)
    write_table(tables.excluded, excluded)
    write_table(tables.candidates, candidates)
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(tables.facts, indent=1) + "\n")
    from lunaops.figures import splits_figure, write_figure  # matplotlib: bad input is said before it loads

    counts = count_splits(tables.scans, tables.nodules, tables.candidates)
    write_figure(splits_figure(counts, diameters_of_splits(tables.scans, tables.nodules)), picture)


if __name__ == "__main__":
    run(main)
