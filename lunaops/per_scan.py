"""What was found in each scan, and in each subset, at the threshold."""

import numpy as np
import pandas as pd

from lunaops.calibration import scale
from lunaops.metrics import wilson_interval
from lunaops.operating_point import OperatingPoint
from lunaops.scored_split import ScoredSplit


def scan_table(split: ScoredSplit, point: OperatingPoint) -> pd.DataFrame:
    """A row a scan, also one without candidates: its counts by LUNA16's rules at the threshold.

    Columns series_uid, subset, candidates, nodules, found, false_positives, highest_score (NaN without candidates).
    """
    events = split.events
    called = scale(events.score, point.temperature) >= point.threshold
    of_scan = split.predictions.groupby("series_uid")["score"]
    uids = split.scans["series_uid"]
    return pd.DataFrame(
        {
            "series_uid": uids,
            "subset": split.scans["subset"],
            "candidates": uids.map(of_scan.size()).fillna(0).astype(int),
            "nodules": events.nodules_per_scan,
            "found": np.bincount(events.scan[called & events.is_hit], minlength=len(uids)),
            "false_positives": np.bincount(events.scan[called & ~events.is_hit], minlength=len(uids)),
            "highest_score": scale(uids.map(of_scan.max()), point.temperature),
        }
    )


def subset_table(scans: pd.DataFrame) -> pd.DataFrame:
    """The rows of `scan_table` summed by subset, with sensitivity (NaN without nodules) and false positives per scan.

    Columns subset, scans, nodules, found, sensitivity, sensitivity_lo, sensitivity_hi (Wilson, 95 %),
    false_positives, fps_per_scan.
    """
    of_subset = scans.groupby("subset")
    table = of_subset[["nodules", "found", "false_positives"]].sum()
    table.insert(0, "scans", of_subset.size())
    low, high = wilson_interval(table["found"], table["nodules"])
    table = table.assign(
        sensitivity=table["found"] / table["nodules"].where(table["nodules"] > 0),
        sensitivity_lo=low,
        sensitivity_hi=high,
        fps_per_scan=table["false_positives"] / table["scans"],
    )
    columns = ["scans", "nodules", "found", "sensitivity", "sensitivity_lo", "sensitivity_hi"]
    return table[[*columns, "false_positives", "fps_per_scan"]].reset_index()
