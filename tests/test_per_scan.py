import math

import pandas as pd
import pytest
from test_evaluation import PARAMS, tables

from lunaops.metrics import wilson_interval
from lunaops.operating_point import OperatingPoint
from lunaops.params import EvaluateParams
from lunaops.per_scan import scan_table, subset_table
from lunaops.scored_split import Reference, scored_split


def of_test(threshold=0.5, temperature=1.0):
    frames = tables()
    predictions = frames.pop("predictions")
    return scan_table(
        scored_split("test", predictions, Reference(**frames), EvaluateParams(**PARAMS)),
        OperatingPoint(threshold, temperature),
    )


def test_a_row_a_scan_by_the_challenges_rules_also_where_there_is_nothing():
    table = of_test()
    assert table.drop(columns="highest_score").to_numpy().tolist() == [
        # candidates, nodules, found, false positives: a's second mark and c's on an excluded finding count neither way
        ["a", "subset0", 2, 1, 1, 0],
        ["b", "subset0", 2, 1, 0, 1],
        ["c", "subset0", 2, 1, 0, 0],
        ["d", "subset0", 0, 0, 0, 0],
    ]
    assert table["highest_score"][:3].tolist() == [0.9, 0.8, 0.6] and math.isnan(table["highest_score"][3])


def test_scores_are_compared_as_they_are_read():
    assert of_test(threshold=0.74)["found"].sum() == 1
    assert of_test(threshold=0.74, temperature=2.0)["highest_score"][0] == pytest.approx(0.75)  # odds 9 -> 3
    assert of_test(threshold=0.76, temperature=2.0)["found"].sum() == 0


def test_subsets_sum_their_scans_and_one_without_nodules_has_no_sensitivity():
    scans = pd.DataFrame(
        [("a", "subset0", 2, 1, 3), ("b", "subset0", 1, 1, 0), ("c", "subset1", 0, 0, 1)],
        columns=["series_uid", "subset", "nodules", "found", "false_positives"],
    )
    table = subset_table(scans)
    assert table[["subset", "scans", "nodules", "found", "false_positives", "fps_per_scan"]].to_numpy().tolist() == [
        ["subset0", 2, 3, 2, 3, 1.5],
        ["subset1", 1, 0, 0, 1, 1.0],
    ]
    low, high = wilson_interval(2, 3)
    ends = table.loc[0, ["sensitivity", "sensitivity_lo", "sensitivity_hi"]].tolist()
    assert ends == [pytest.approx(2 / 3), pytest.approx(low), pytest.approx(high)]
    assert table.loc[1, ["sensitivity", "sensitivity_lo", "sensitivity_hi"]].isna().all()
