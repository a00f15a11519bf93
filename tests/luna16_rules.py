"""LUNA16's rules read slowly and literally, and tables to try them on.

In the tables findings and marks lie on the x axis: (series, x, diameter) and (series, x, score).
"""

import math

import numpy as np
import pandas as pd
from hypothesis import strategies as st

RATES = (0.125, 0.25, 0.5, 1, 2, 4, 8)

scans = st.sampled_from("abcd")
places = st.integers(0, 12)
findings_of_scans = st.lists(st.tuples(scans, places, st.sampled_from([-1, 0, 2, 3, 5, 8])), max_size=8)
marks_of_scans = st.lists(st.tuples(scans, places, st.integers(0, 6).map(lambda k: k / 8)), max_size=25)


def table(rows, value):
    frame = pd.DataFrame(rows, columns=["series_uid", "x", value])
    return frame.assign(x=frame["x"].astype(float), y=0.0, z=0.0, **{value: frame[value].astype(float)})


def literally(marks, nodules, excluded, series, unknown_diameter_mm=10, max_marks=None):
    """The rules, one after another, in plain loops; (labels, scores) for roc_curve and the counts.

    A row is a series, coordinates (as many as one likes), and a score or diameter.
    """
    label, value, doubles, ignored, num_marks = [], [], 0, 0, 0
    for scan in series:
        here = [mark for mark in marks if mark[0] == scan]
        if max_marks is not None and len(here) > max_marks:
            limit = sorted((mark[-1] for mark in here), reverse=True)[max_marks]
            here = [mark for mark in here if mark[-1] > limit]
        num_marks += len(here)
        free = set(range(len(here)))
        for findings, is_excluded in ((nodules, False), (excluded, True)):
            for finding in findings:
                if finding[0] != scan:
                    continue
                diameter = unknown_diameter_mm if finding[-1] < 0 else finding[-1]
                near = {k for k, mark in enumerate(here) if _squared_distance(mark, finding) < (diameter / 2) ** 2}
                if is_excluded:
                    ignored += len(near & free)
                elif near:
                    label.append(1)
                    value.append(max(here[k][-1] for k in near))
                    doubles += len(near) - 1
                free -= near
        for k in free:
            label.append(0)
            value.append(here[k][-1])
    return label, value, {"ignored_double": doubles, "ignored_excluded": ignored, "candidates": num_marks}


def _squared_distance(mark, finding):
    return sum((one - other) ** 2 for one, other in zip(mark[1:-1], finding[1:-1], strict=True))


def curve(label, value, num_nodules, num_scans):
    """(false positives per scan, sensitivity) of all distinct scores, from none on."""
    points, found, wrong = {math.inf: (0.0, 0.0)}, 0, 0
    for score, is_hit in sorted(zip(value, label, strict=True), reverse=True):
        found, wrong = found + is_hit, wrong + 1 - is_hit
        points[score] = (wrong / num_scans, found / num_nodules)  # of equal scores the last counts
    return list(points.values())


def bootstrap(marks, nodules, excluded, series, rates, draws):
    """Sensitivities at the rates for each draw: the scans drawn are copied, one after another, under new names."""
    sensitivities = []
    for draw in draws:
        names = [str(place) for place in range(len(draw))]
        copies = [
            [(name, *row[1:]) for name, scan in zip(names, draw, strict=True) for row in rows if row[0] == series[scan]]
            for rows in (marks, nodules, excluded)
        ]
        label, value, _ = literally(*copies, names)
        num_nodules = len(copies[1])
        if num_nodules:
            x, y = zip(*curve(label, value, num_nodules, len(draw)), strict=True)
            sensitivities.append(np.interp(rates, x, y))
        else:
            sensitivities.append(np.full(len(rates), np.nan))
    return np.array(sensitivities)
