"""What an evaluation was measured on, so that two can be held against each other."""

import hashlib

import pandas as pd

from lunaops.comparison import SAME
from lunaops.scored_split import Reference

EvaluatedData = dict[str, pd.DataFrame]

_FINDING = ["series_uid", "x", "y", "z", "diameter_mm"]


def evaluated_data(split: str, predictions: pd.DataFrame, reference: Reference) -> EvaluatedData:
    """All that decides the FROC of a split beside the scores: its scans, nodules, excluded findings and candidates.

    Sorted, whatever the order and the other splits of the tables.
    """
    scans = reference.scans[reference.scans["split"] == split]
    candidates = predictions[predictions["split"] == split]
    here = {
        name: table[table["series_uid"].isin(scans["series_uid"])]
        for name, table in (("nodules", reference.nodules), ("excluded findings", reference.excluded))
    }
    return {
        "scans": _sorted(scans[["series_uid"]]),
        **{name: _sorted(table[_FINDING]) for name, table in here.items()},
        "candidates": _sorted(candidates[["candidate_id", *SAME, reference.task.label]]),
    }


def digest_of(data: EvaluatedData) -> str:
    """One hash of all of it."""
    text = "".join(f"{name}\n{_text(table)}" for name, table in data.items())
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def differences(this: EvaluatedData, other: EvaluatedData) -> list[str]:
    """How two differ, a phrase a table: 'nodules 112 against 115, 3 of one only'; empty where they do not."""
    return [
        f"{name} {len(this[name]):,} against {len(other[name]):,}, {_num_of_one_only(this[name], other[name]):,} "
        "of one only"
        for name in this
        if _text(this[name]) != _text(other[name])
    ]


def _num_of_one_only(this: pd.DataFrame, other: pd.DataFrame) -> int:
    ours, theirs = (set(table.itertuples(index=False, name=None)) for table in (this, other))
    return len(ours ^ theirs)


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.astype({"series_uid": str}).sort_values(list(rows.columns), ignore_index=True)


def _text(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, lineterminator="\n")
