"""What the page is made of, read once, so that equal material gives equal bytes."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from lunaops import provenance
from lunaops.errors import InputError
from lunaops.evaluation import Evaluation
from lunaops.report import Pictures, charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lunaops.tracking import RunLink

logger = logging.getLogger(__name__)

_OF_DATA = {"splits", "strategy", "left_out"}
_OF_SPLIT = {
    *("scans", "scans_without_nodules", "nodules", "candidates", "positives", "negatives"),
    "diameter_mm_percentiles",
}


@dataclass(frozen=True)
class Origin:
    """Which code evaluated which files: the hashes are DVC's, by the tables' names; commit and is_dirty as git's."""

    commit: str | None
    is_dirty: bool | None
    versions: Mapping[str, str]
    digests: Mapping[str, str]
    training_run: "RunLink"


@dataclass(frozen=True)
class Earlier:
    """Another evaluation's metrics, NaN where undefined, and the commit that holds them."""

    commit: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Material:
    """All that the page is made of; `data` is what merge-annotations reports, `earlier` what to compare with."""

    evaluation: Evaluation
    pictures: Pictures
    scans: pd.DataFrame
    data: Mapping[str, Any]
    origin: Origin
    earlier: Earlier | None

    @cached_property
    def charts(self) -> "dict[str, Figure]":
        """The charts by name, as figures; the PNG files show the same."""
        return dict(charts(self.evaluation))


def read_origin(inputs: Mapping[str, Path], training_run: "RunLink") -> Origin:
    """Ask git and the libraries, and hash the files."""
    return Origin(
        commit=provenance.git_commit(),
        is_dirty=provenance.is_dirty(),
        versions=provenance.library_versions(),
        digests={name: provenance.content_digest(path) for name, path in inputs.items()},
        training_run=training_run,
    )


def read_data(path: Path) -> dict[str, Any]:
    """Read what merge-annotations reports of the splits. Raises InputError if it is not there or not that."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the merge-annotations stage, which writes it")
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); run the merge-annotations stage again") from error
    of_splits = [_OF_SPLIT - counts.keys() for counts in data.get("splits", {}).values()]
    if missing := sorted((_OF_DATA - data.keys()).union(*of_splits)):
        raise InputError(f"{path}: lacks {', '.join(missing)}; run the merge-annotations stage again")
    return data


def read_earlier(path: Path, split: str) -> Earlier | None:
    """The split's numbers in metrics.json as it was last committed; None where it never was, or without this split.

    Texts among the numbers are left out. A file that cannot be read as metrics is named in a warning and left alone:
    only a commit can mend it.
    """
    text, commit = provenance.committed_text(path), provenance.commit_of_file(path)
    if text is None or commit is None:
        return None
    try:
        numbers = {name: value for name, value in json.loads(text).get(split, {}).items() if not isinstance(value, str)}
        metrics = {name: math.nan if value is None else float(value) for name, value in numbers.items()}
    except (ValueError, TypeError, AttributeError) as error:
        logger.warning("%s as committed in %s holds no metrics (%s): nothing to compare with", path, commit[:7], error)
        return None
    return Earlier(commit, metrics) if metrics else None
