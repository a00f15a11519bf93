"""Two models' predictions of the same candidates: is one better, or is it chance?"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lunaops.bootstrap import interval, ranking_of_draws, sensitivity_of_draws
from lunaops.errors import InputError
from lunaops.froc import froc
from lunaops.metrics import ranking
from lunaops.operating_point import OperatingPoint, operating_point
from lunaops.params import EvaluateParams
from lunaops.scored_split import Reference, ScoredSplit, scored_split

SAME = ["series_uid", "x", "y", "z"]  # of a candidate, whoever scored it; and its class
NAMES = {"cpm": "CPM", "roc_auc": "ROC AUC", "average_precision": "average precision"}  # of what is compared
EXACT_PAIRS = 1000  # McNemar: up to so many discordant pairs the binomial distribution itself, beyond it chi squared


@dataclass(frozen=True)
class Difference:
    """A number of both, this one's less the baseline's, and the 95 % interval of that over paired draws of scans.

    The interval is NaN without draws, or where no draw has a number.
    """

    this: float
    baseline: float
    difference: float
    low: float
    high: float

    def sentence(self, name: str) -> str:
        """In words: how far above or below the baseline, and whether scans drawn anew leave that standing."""
        if math.isnan(self.difference):
            return f"{name} is undefined"
        direction = "higher" if self.difference >= 0 else "lower"
        said = f"{name} {self.this:.3f} against {self.baseline:.3f}: {abs(self.difference):.3f} {direction}"
        if math.isnan(self.low):
            return said
        shown = "a difference is shown" if self.low > 0 or self.high < 0 else "no difference is shown"
        return f"{said}, 95 % interval {self.low:+.3f} to {self.high:+.3f}, so {shown}"


@dataclass(frozen=True)
class Comparison:
    """This model less the baseline on one split; each is read at its own operating point.

    `differences` are by metric: the one that tells most of the task, and average_precision.
    `only_this_right` and `only_baseline_right` count the candidates that one of the two classifies right.
    `mcnemar_p` is two-sided; McNemar's test takes candidates as independent, which those of one scan are not quite.
    """

    split: str
    num_candidates: int
    differences: dict[str, Difference]
    only_this_right: int
    only_baseline_right: int
    mcnemar_p: float

    @property
    def sentence(self) -> str:
        """What the comparison says, for people."""
        differ = "; ".join(difference.sentence(NAMES[name]) for name, difference in self.differences.items())
        return (
            f"{self.split} against the baseline: {differ}; of {self.num_candidates:,} candidates "
            f"{self.only_this_right:,} are right only here and {self.only_baseline_right:,} only in the baseline "
            f"(McNemar p = {self.mcnemar_p:.2g})"
        )

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers by the names of metrics.json."""
        numbers = {
            "versus/only_this_right": float(self.only_this_right),
            "versus/only_baseline_right": float(self.only_baseline_right),
            "versus/mcnemar_p": self.mcnemar_p,
        }
        for name, difference in self.differences.items():
            numbers |= {
                f"versus/{name}": difference.difference,
                f"versus/{name}_lo": difference.low,
                f"versus/{name}_hi": difference.high,
            }
        return numbers


def compare(
    predictions: pd.DataFrame, baseline: pd.DataFrame, reference: Reference, params: EvaluateParams
) -> Comparison:
    """Compare two predictions tables on `params.split`, each with the temperature and threshold of its own val.

    Both meet the same draws of scans. Raises InputError unless both score the same candidates there, and where either
    cannot be evaluated.
    """
    this, our_point = _split_and_point(predictions, reference, params)
    try:
        other, their_point = _split_and_point(baseline, reference, params)
    except InputError as error:
        raise InputError(f"evaluate.compare_with {params.compare_with}: the baseline's predictions: {error}") from error
    check_same_candidates(this.predictions, other.predictions, reference.task.label)
    ours, theirs = _is_right(this, our_point), _is_right(other, their_point)
    numbers, others = (_numbers(split, params) for split in (this, other))
    better, worse = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return Comparison(
        split=params.split,
        num_candidates=len(ours),
        differences={name: _difference(number, others[name]) for name, number in numbers.items()},
        only_this_right=better,
        only_baseline_right=worse,
        mcnemar_p=mcnemar(better, worse),
    )


def telling_difference(this: ScoredSplit, baseline: ScoredSplit, params: EvaluateParams) -> Difference:
    """The metric that tells most of the task (the CPM, of nodules), of both on the same scans and draws of these."""
    numbers, others = (_numbers(split, params)[split.task.telling] for split in (this, baseline))
    return _difference(numbers, others)


def check_same_candidates(this: pd.DataFrame, baseline: pd.DataFrame, label: str) -> None:
    """Raise InputError unless both tables hold the same candidates: the same ids, each of the same place and class."""
    ours, theirs = (table.set_index("candidate_id")[[*SAME, label]].sort_index() for table in (this, baseline))
    only_one = ours.index.symmetric_difference(theirs.index)
    remedy = "compare models that scored the same candidates, or set evaluate.compare_with: null"
    if len(only_one):
        raise InputError(
            f"the baseline scored {len(theirs)} candidates here, this model {len(ours)}, and {len(only_one)} are of "
            f"one only, the first candidate {only_one[0]}: {remedy}"
        )
    differs = (ours.astype(theirs.dtypes) != theirs).any(axis=1)
    if differs.any():
        raise InputError(
            f"{int(differs.sum())} candidates have another series, place or class in the baseline, the first candidate "
            f"{differs.idxmax()}: {remedy}"
        )


def mcnemar(only_this_right: int, only_baseline_right: int) -> float:
    """McNemar's two-sided p: the chance of discordant pairs at least so uneven, were both models equally good.

    Exact (binomial, 1/2) up to EXACT_PAIRS discordant pairs, from there chi squared with Edwards' correction. 1 where
    no pair is discordant.
    """
    pairs, fewer = only_this_right + only_baseline_right, min(only_this_right, only_baseline_right)
    if pairs <= EXACT_PAIRS:
        at_most_fewer: float = sum(math.comb(pairs, k) for k in range(fewer + 1)) / 2**pairs
        return min(1.0, 2 * at_most_fewer)
    statistic = max(0, pairs - 2 * fewer - 1) ** 2 / pairs
    return math.erfc(math.sqrt(statistic / 2))  # of chi squared with one degree of freedom


def _split_and_point(
    predictions: pd.DataFrame, reference: Reference, params: EvaluateParams
) -> tuple[ScoredSplit, OperatingPoint]:
    return scored_split(params.split, predictions, reference, params), operating_point(predictions, reference, params)


def _is_right(split: ScoredSplit, point: OperatingPoint) -> pd.Series:
    """Whether each candidate is classified right, in the order of their ids."""
    rows = point.read(split.predictions).set_index("candidate_id").sort_index()
    return (rows["score"] >= point.threshold) == rows[split.task.label]


def _numbers(split: ScoredSplit, params: EvaluateParams) -> dict[str, tuple[float, NDArray[np.float64]]]:
    """The metrics by which models compare: each one's number, and that of each draw."""
    rows, rates = split.predictions, params.fps_per_scan
    numbers, draws = ranking(split.label, rows["score"]), {"num_draws": params.bootstraps, "seed": params.seed}
    of_draws = ranking_of_draws(rows, split.task.label, list(split.scans["series_uid"]), **draws)
    if split.task.is_detection:
        numbers["cpm"] = froc(split.events, fps_per_scan=rates).cpm
        of_draws["cpm"] = sensitivity_of_draws(split.events, rates, **draws).mean(axis=1)
    return {name: (numbers[name], of_draws[name]) for name in (split.task.telling, "average_precision")}


def _difference(this: tuple[float, NDArray[np.float64]], other: tuple[float, NDArray[np.float64]]) -> Difference:
    of_draws = interval(this[1] - other[1])
    return Difference(this[0], other[0], this[0] - other[0], float(of_draws.low), float(of_draws.high))
