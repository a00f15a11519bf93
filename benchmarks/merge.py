"""merge-annotations at LUNA16's full size: the book's loop against ours, in turns, and the whole stage.

    python -m benchmarks.merge ../shared/data/luna16-labels [ROWS]

The folder holds the real annotations.csv, annotations_excluded.csv, annotations_with_malignancy.csv, seriesuids.csv and
subset_to_uids.json; the candidates (551,065, or ROWS) are made here, around real annotations and elsewhere. Both sides
start from the CSV files: the book's reads rows, loops over the annotations of each one's series by its box rule, and
sorts; ours also checks every number, drops duplicates and what lies outside its scan, matches by LUNA16's hit rule
too, and splits. Prints the median of the rounds, a process each. CPU time is
the fairer of the two clocks on a machine that others use.
"""

import csv
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 551_065
POSITIVES = 1_351
ROUNDS = 3
SIDE, SPACING_MM, LOW_MM = 64, 64.0, -2048.0  # of each scan: small on disk, and it holds every place
NAMES = ("annotations.csv", "annotations_excluded.csv", "annotations_with_malignancy.csv", "seriesuids.csv")
HEADER = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    f"Offset = {LOW_MM} {LOW_MM} {LOW_MM}\nElementSpacing = {SPACING_MM} {SPACING_MM} {SPACING_MM}\n"
    f"DimSize = {SIDE} {SIDE} {SIDE}\nElementType = MET_SHORT\nElementDataFile = {{}}.raw\n"
)


def write_candidates(labels: Path, path: Path, rows: int, rng: np.random.Generator) -> None:
    """Write candidates.csv as LUNA16's: by series, positives on annotations, others in any of the 888 scans."""
    nodules = pd.read_csv(labels / "annotations.csv", dtype={"seriesuid": str})
    series = np.array((labels / "seriesuids.csv").read_text().split())
    on = nodules.iloc[rng.integers(0, len(nodules), POSITIVES)]
    axes = ["coordX", "coordY", "coordZ"]
    near = on[axes].to_numpy() + rng.uniform(-0.3, 0.3, (POSITIVES, 3)) * on[["diameter_mm"]].to_numpy()
    others = rows - POSITIVES
    table = pd.DataFrame(
        np.concatenate([near, rng.uniform([-180, -200, -400], [180, 200, 100], (others, 3))]).round(9), columns=axes
    )
    table.insert(0, "seriesuid", np.concatenate([on["seriesuid"].to_numpy(), rng.choice(series, others)]))
    table["class"] = np.repeat([1, 0], [POSITIVES, others])
    table.sample(frac=1, random_state=0).sort_values("seriesuid", kind="stable").to_csv(path, index=False)


def write_raw(labels: Path, raw: Path, rows: int) -> None:
    """Write data/raw as fetch-subsets leaves it: the labels and 888 scans of a small grid."""
    (raw / "labels").mkdir(parents=True)
    for name in NAMES:
        shutil.copy(labels / name, raw / "labels" / name)
    write_candidates(labels, raw / "labels" / "candidates.csv", rows, np.random.default_rng(0))
    for number, series_uids in json.loads((labels / "subset_to_uids.json").read_text()).items():
        folder = raw / f"subset{number}"
        folder.mkdir()
        for series_uid in series_uids:
            (folder / f"{series_uid}.mhd").write_text(HEADER.format(series_uid))
            with (folder / f"{series_uid}.raw").open("wb") as file:
                file.truncate(2 * SIDE**3)


def by_book(labels: Path) -> list[tuple[bool, float, str, tuple[float, ...]]]:
    """The candidates as the book's getCandidateInfoList reads, matches and sorts them."""
    annotations = defaultdict(list)
    with (labels / "annotations.csv").open() as file:
        for row in list(csv.reader(file))[1:]:
            annotations[row[0]].append((tuple(float(x) for x in row[1:4]), float(row[4])))
    candidates = []
    with (labels / "candidates.csv").open() as file:
        for row in list(csv.reader(file))[1:]:
            center = tuple(float(x) for x in row[1:4])
            diameter_mm = 0.0
            for place, annotated_mm in annotations.get(row[0], []):
                for axis in range(3):
                    if abs(center[axis] - place[axis]) > annotated_mm / 4:
                        break
                else:
                    diameter_mm = annotated_mm
                    break
            candidates.append((bool(int(row[4])), diameter_mm, row[0], center))
    candidates.sort(reverse=True)
    return candidates


def measure(side: str, raw: Path) -> dict[str, float]:
    """Run one side once; seconds of its steps and its peak memory."""
    if side == "book":
        started = now()
        by_book(raw / "labels")
        return {"all": now()[0] - started[0], "cpu": now()[1] - started[1], "gb": peak_gb()}
    from lunaops.candidates import merge_annotations
    from lunaops.ct import read_grid
    from lunaops.labels import read_labels
    from lunaops.params import read_params
    from lunaops.subsets import SUBSETS, find_scans
    from lunaops.tables import Scan

    params = read_params(Path("params.yaml"))
    scans = [Scan(file.series_uid, file.subset, "", read_grid(file.path)) for file in find_scans(raw, SUBSETS)]
    started = now()
    labels = read_labels(raw / "labels", "candidates")
    read = now()
    merge_annotations(scans, labels, merge=params.merge, split=params.split)
    merged = now()
    return {
        "read": read[0] - started[0],
        "read_cpu": read[1] - started[1],
        "all": merged[0] - started[0],
        "cpu": merged[1] - started[1],
        "gb": peak_gb(),
    }


def measure_stage(raw: Path, out: Path) -> dict[str, float]:
    """The stage as dvc repro runs it, from starting Python to the last table."""
    text = (
        Path("params.yaml")
        .read_text()
        .replace("subset4]  #", "subset4, subset5, subset6, subset7, subset8, subset9] #")
    )
    (out / "params.yaml").write_text(text)
    paths = {"scans": "scans.csv", "report": "data.json", "picture": "data.png"}
    paths |= {name: f"{name}.parquet" for name in ("nodules", "excluded", "candidates")}
    options = [word for name, file in paths.items() for word in (f"--{name}", str(out / file))]
    command = [sys.executable, "-m", "stages.merge_annotations", "--raw", str(raw), *options]
    started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--params-file", str(out / "params.yaml")], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"all": time.perf_counter() - started, "cpu": cpu, "gb": after.ru_maxrss / 2**20}


def now() -> tuple[float, float]:
    """Seconds by the clock, and of CPU time in this process."""
    return time.perf_counter(), time.process_time()


def peak_gb() -> float:
    """Peak resident memory of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(labels: Path, rows: int) -> None:
    """Run both sides in turns, then the stage, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder) / "raw", Path(folder)
        write_raw(labels, raw, rows)
        results: dict[str, list[dict[str, float]]] = {"book": [], "ours": [], "stage": []}
        for _ in range(ROUNDS):
            for side in ("book", "ours"):
                command = [sys.executable, "-m", "benchmarks.merge", "--side", side, str(raw)]
                results[side].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            results["stage"].append(measure_stage(raw, out))
    median = {
        side: {name: statistics.median(result[name] for result in runs) for name in runs[0]}
        for side, runs in results.items()
    }
    book, ours, stage = median["book"], median["ours"], median["stage"]
    print(f"| {rows:,} candidates, 888 scans | s | times as fast | CPU s | times as fast by CPU | peak GB |")
    print("|---|---|---|---|---|---|")
    for name, result in (
        ("the book's loop: read, box rule, sort", book),
        ("ours: read and check, both rules, sort, split", ours),
    ):
        clock, cpu = (f"{result[key]:.2f} | {book[key] / result[key]:.1f}" for key in ("all", "cpu"))
        print(f"| {name} | {clock} | {cpu} | {result['gb']:.2f} |")
    print(f"| of it reading and checking all CSV files | {ours['read']:.2f} | | {ours['read_cpu']:.2f} | | |")
    spent = f"{stage['all']:.2f} | | {stage['cpu']:.2f} | | {stage['gb']:.2f}"
    print(f"| the whole stage, from Python's start to parquet and picture | {spent} |")


if __name__ == "__main__":
    if sys.argv[1] == "--side":
        print(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else ROWS)
