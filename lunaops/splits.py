"""Which split a scan is in, and a candidate with it: train, val or test."""

import hashlib
import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lunaops.errors import InputError
from lunaops.params import SplitParams

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def split_scans(subset_of: Mapping[str, str], split: SplitParams) -> dict[str, str]:
    """The split of each scan of `subset_of` (series id -> subset), by whole scans; not for candidate_stride.

    Raises InputError where split.fold asks for more subsets than the scans have.
    """
    if split.strategy == "series_hash":
        return {series_uid: _split_of_hash(series_uid, split) for series_uid in subset_of}
    held_out = _fold(sorted(set(subset_of.values())), split.fold) if split.strategy == "k_fold" else _named(split)
    return {series_uid: held_out.get(subset, "train") for series_uid, subset in subset_of.items()}


def split_by_stride(num_candidates: int, split: SplitParams) -> NDArray[np.str_]:
    """The book's split: of candidates in its order the first of every `val_stride` validates. It splits no scans."""
    logger.warning(
        "split.strategy candidate_stride, the book's: crops of one scan are in train and val, so val is flattered, "
        "and its FROC has only every %dth mark: quote no CPM of it",
        split.val_stride,
    )
    return np.where(np.arange(num_candidates) % split.val_stride == 0, "val", "train")


def wanted_splits(split: SplitParams) -> tuple[str, ...]:
    """The splits that must not be empty: train, val, and test where `split` asks for one."""
    has_test = {
        "subset": bool(split.test),
        "k_fold": True,
        "series_hash": split.test_share > 0,
        "candidate_stride": False,
    }
    return SPLITS if has_test[split.strategy] else SPLITS[:2]


def _named(split: SplitParams) -> dict[str, str]:
    return dict.fromkeys(split.val, "val") | dict.fromkeys(split.test, "test")


def _fold(subsets: list[str], fold: int) -> dict[str, str]:
    """The fold-th subset tests, the next one, after the last the first, validates (LUNA16 tests on one of ten)."""
    if len(subsets) < 3:
        raise InputError(
            f"split.strategy k_fold wants at least 3 subsets with scans, to train, validate and test on; "
            f"there are {', '.join(subsets)}: see fetch.parts"
        )
    if fold >= len(subsets):
        raise InputError(
            f"split.fold {fold}: there are {len(subsets)} subsets with scans, so folds 0 to {len(subsets) - 1}: "
            f"{', '.join(subsets)}; see fetch.parts"
        )
    return {subsets[fold]: "test", subsets[(fold + 1) % len(subsets)]: "val"}


def _split_of_hash(series_uid: str, split: SplitParams) -> str:
    """By the series id alone: more scans on disk move none of the others.

    Two series of one patient can part company here. LUNA16 has one scan a patient.
    """
    digest = hashlib.sha256(f"{split.seed} {series_uid}".encode()).digest()
    share = int.from_bytes(digest[:8]) / 2**64  # uniform in [0, 1)
    if share < split.test_share:
        return "test"
    return "val" if share < split.test_share + split.val_share else "train"
