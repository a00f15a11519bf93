"""LUNA16's FROC at full size, and against plain loops on a part of it.

    python -m benchmarks.froc [FOLDER]

FOLDER holds LUNA16's annotations.csv, annotations_excluded.csv and seriesuids.csv (../shared/data/luna16-labels unless
said); the marks are generated. The plain loops do what LUNA16's Python 2 script does, a scan after another over lists,
with scikit-learn's roc_curve, and copy the scans of each bootstrap; they get some of the scans and bootstraps only.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from lunaops.bootstrap import froc_intervals
from lunaops.csv_file import read_series_uids
from lunaops.froc import LUNA16_RATES, Events, froc, match
from lunaops.labels import read_excluded_csv
from lunaops.submission import read_marks

NUM_MARKS = 551_065  # of LUNA16's candidates.csv
PLAIN_SCANS, PLAIN_BOOTSTRAPS, ROUNDS = 100, 20, 3
Rows = list[tuple[Any, ...]]
PlainEvents = dict[str, tuple[list[int], list[float], int]]
COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ"]


def generated_submission(labels: Path, seed: int) -> pd.DataFrame:
    """Marks in LUNA16's columns: most nodules, some twice; some excluded findings; the rest anywhere. Scores tie."""
    rng = np.random.default_rng(seed)
    nodules, excluded = (pd.read_csv(labels / f"{name}.csv") for name in ("annotations", "annotations_excluded"))
    found = nodules.sample(frac=1.2, replace=True, random_state=seed)[COLUMNS]
    ignored = excluded.sample(frac=0.2, random_state=seed)[COLUMNS]
    other = pd.DataFrame(
        {
            "seriesuid": rng.choice(read_series_uids(labels / "seriesuids.csv"), NUM_MARKS - len(found) - len(ignored)),
            **{axis: rng.uniform(-150, 150, NUM_MARKS - len(found) - len(ignored)) for axis in COLUMNS[1:]},
        }
    )
    marks = pd.concat([found, ignored, other], ignore_index=True)
    marks[COLUMNS[1:]] += rng.normal(0, 0.8, (NUM_MARKS, 3))
    score = np.concatenate([rng.beta(4, 2, len(found)), rng.beta(1, 8, NUM_MARKS - len(found))])
    return marks.assign(probability=score.round(4)).sample(frac=1, random_state=seed)


def plain(marks: Rows, nodules: Rows, excluded: Rows, series_uids: list[str]) -> PlainEvents:
    """For each scan whether an event is a hit, its score, and how many nodules there are."""
    events = {}
    for uid in series_uids:
        here = {number: mark for number, mark in enumerate(marks) if mark[0] == uid}
        left, label, score, num_nodules = dict(here), [], [], 0
        for findings, is_nodule in ((nodules, True), (excluded, False)):
            for _, x, y, z, diameter in (finding for finding in findings if finding[0] == uid):
                radius = (10.0 if diameter < 0 else diameter) / 2
                near = [
                    number
                    for number, mark in here.items()
                    if (x - mark[1]) ** 2 + (y - mark[2]) ** 2 + (z - mark[3]) ** 2 < radius**2
                ]
                for number in near:
                    left.pop(number, None)
                num_nodules += is_nodule
                if is_nodule and near:
                    label.append(1)
                    score.append(max(here[number][4] for number in near))
        label += [0] * len(left)
        score += [mark[4] for mark in left.values()]
        events[uid] = label, score, num_nodules
    return events


def plain_sensitivities(events: PlainEvents, drawn: list[str]) -> NDArray[np.float64]:
    """Sensitivity at LUNA16's rates over the scans drawn."""
    label = np.concatenate([events[uid][0] for uid in drawn])
    score = np.concatenate([events[uid][1] for uid in drawn])
    fpr, tpr, _ = roc_curve(label, score)
    rate = fpr * (len(label) - label.sum()) / len(drawn)
    return np.asarray(np.interp(LUNA16_RATES, rate, tpr * label.sum() / sum(events[uid][2] for uid in drawn)))


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """The median time, and processor time: on a machine that others use too, the second is the steadier."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, cpu = np.median(times, axis=0)
    return wall, cpu


def compare(labels: Path, marks: pd.DataFrame) -> None:
    """Both sides on some of the scans."""
    some = read_series_uids(labels / "seriesuids.csv")[:PLAIN_SCANS]
    tables = {
        "marks": marks.rename(columns={"probability": "value"}),
        **{name: pd.read_csv(labels / f"{name}.csv") for name in ("annotations", "annotations_excluded")},
    }
    rows = [list(table[table["seriesuid"].isin(some)].itertuples(index=False, name=None)) for table in tables.values()]
    ours = [
        table[table["seriesuid"].isin(some)].set_axis(["series_uid", "x", "y", "z", value], axis=1)
        for table, value in zip(tables.values(), ("score", "diameter_mm", "diameter_mm"), strict=True)
    ]
    marks_there, nodules_there, excluded_there = rows
    rng = np.random.default_rng(0)

    def plain_events() -> PlainEvents:
        return plain(marks_there, nodules_there, excluded_there, some)

    def events() -> Events:
        marks, nodules, excluded = ours
        return match(marks, nodules, excluded, some, unknown_diameter_mm=10)

    def bootstraps() -> None:
        froc_intervals(events(), fps_per_scan=LUNA16_RATES, num_draws=PLAIN_BOOTSTRAPS, seed=0)

    def plain_bootstraps() -> None:
        found = plain_events()
        for _ in range(PLAIN_BOOTSTRAPS):
            plain_sensitivities(found, list(rng.choice(some, len(some))))

    there = plain_sensitivities(plain_events(), some)
    here = list(froc(events(), fps_per_scan=LUNA16_RATES).sensitivity_at.values())
    assert np.allclose(there, here), (there, here)
    what = f"{len(some)} scans, {len(rows[0]):,} marks, {len(rows[2]):,} excluded findings"
    for name, slow, quick in (
        (
            f"FROC of {what}",
            lambda: plain_sensitivities(plain_events(), some),
            lambda: froc(events(), fps_per_scan=LUNA16_RATES),
        ),
        (f"the same with {PLAIN_BOOTSTRAPS} bootstraps", plain_bootstraps, bootstraps),
    ):
        (wall, cpu), (our_wall, our_cpu) = seconds(slow, 1), seconds(quick)
        print(f"| {name} | {wall:.2f} | {our_wall:.3f} | {wall / our_wall:.0f} | {cpu:.2f} | {our_cpu:.3f} |")


def full_size(labels: Path, path: Path) -> None:
    """Ours on all of it, in steps."""
    uids = read_series_uids(labels / "seriesuids.csv")
    marks = read_marks(path)
    nodules, excluded = (read_excluded_csv(labels / f"{name}.csv") for name in ("annotations", "annotations_excluded"))
    events = match(marks, nodules, excluded, uids, unknown_diameter_mm=10)
    what = f"{len(marks):,} marks in {len(uids)} scans, {len(excluded):,} excluded findings"
    print(f"| {what} | seconds | processor seconds |\n|---|---|---|")
    for name, work in {
        "read the marks": lambda: read_marks(path),
        "match them": lambda: match(marks, nodules, excluded, uids, unknown_diameter_mm=10),
        "curve and CPM": lambda: froc(events, fps_per_scan=LUNA16_RATES),
        "1,000 bootstraps": lambda: froc_intervals(events, fps_per_scan=LUNA16_RATES, num_draws=1000, seed=1),
    }.items():
        wall, cpu = seconds(work)
        print(f"| {name} | {wall:.2f} | {cpu:.2f} |")


def commands(labels: Path, path: Path) -> None:
    """The command from process start to end: time, processor time, the most memory that it held."""
    files = {"submission": path, "annotations": labels / "annotations.csv"}
    files |= {"excluded": labels / "annotations_excluded.csv", "seriesuids": labels / "seriesuids.csv"}
    command = [sys.executable, "-m", "lunaops", "froc", *(str(w) for k, v in files.items() for w in (f"--{k}", v))]
    print("| command, from start to end | seconds | processor seconds | peak MiB |\n|---|---|---|---|")
    for options in ([], ["--bootstrap", "1000"], ["--bootstrap", "1000", "--plot", str(path.with_suffix(".png"))]):
        runs = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0
            runs.append((time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
        wall, cpu, peak = np.median(runs, axis=0)
        name = " ".join(["froc", *(word for word in options if "/" not in word)])
        print(f"| `{name}` | {wall:.1f} | {cpu:.1f} | {peak:.0f} |")


def main() -> None:
    """Generate the marks; print the three tables."""
    labels = Path(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/luna16-labels")
    marks = generated_submission(labels, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        marks.to_csv(path, index=False)
        print(
            "| | plain loops s | ours s | times | plain, processor s | ours, processor s |\n|---|---|---|---|---|---|"
        )
        compare(labels, marks)
        print()
        full_size(labels, path)
        print()
        commands(labels, path)


if __name__ == "__main__":
    main()
