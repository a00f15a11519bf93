"""What each split holds, in numbers: is it representative?"""

from typing import Any

import numpy as np
import pandas as pd

from lunaops.splits import SPLITS

PERCENTILES = (0, 10, 25, 50, 75, 90, 100)


def count_splits(scans: pd.DataFrame, nodules: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Counts of scans, annotated nodules and candidates, a row a split; malignant and benign where that is known."""
    of_nodule = _split_of_nodules(scans, nodules)
    without = scans[~scans["series_uid"].isin(nodules["series_uid"])]
    is_malignant = nodules["is_malignant"].astype("boolean")
    label, of_candidate = candidates["is_nodule"].to_numpy(dtype=bool), candidates["split"]
    counted = {
        "scans": scans["split"],
        "scans_without_nodules": without["split"],
        "nodules": of_nodule,
        "malignant": of_nodule[is_malignant.fillna(False)],
        "benign": of_nodule[~is_malignant.fillna(True)],
        "candidates": of_candidate,
        "positives": of_candidate[label],
        "negatives": of_candidate[~label],
    }
    counts = {name: splits.value_counts() for name, splits in counted.items()}
    return pd.DataFrame(counts, index=list(SPLITS)).fillna(0).astype(int)


def diameters_of_splits(scans: pd.DataFrame, nodules: pd.DataFrame) -> dict[str, pd.Series]:
    """The diameters [mm] of the annotated nodules of each split, rising."""
    split_of = _split_of_nodules(scans, nodules)
    return {split: nodules["diameter_mm"][split_of == split].sort_values(ignore_index=True) for split in SPLITS}


def describe_splits(scans: pd.DataFrame, nodules: pd.DataFrame, candidates: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The counts of each split and its diameters' percentiles, None where it has no nodule; as JSON wants them."""
    counts = count_splits(scans, nodules, candidates)
    diameters = diameters_of_splits(scans, nodules)
    return {
        str(split): {
            **{str(name): int(count) for name, count in row.items()},
            "diameter_mm_percentiles": _percentiles(diameters[str(split)]),
        }
        for split, row in counts.iterrows()
    }


def _split_of_nodules(scans: pd.DataFrame, nodules: pd.DataFrame) -> pd.Series:
    split_of = dict(zip(scans["series_uid"], scans["split"], strict=True))
    return pd.Series([split_of[series_uid] for series_uid in nodules["series_uid"]], index=nodules.index, dtype=object)


def _percentiles(diameters: pd.Series) -> dict[str, float] | None:
    if diameters.empty:
        return None
    values = np.percentile(diameters, PERCENTILES).round(2).tolist()
    return dict(zip(map(str, PERCENTILES), values, strict=True))
