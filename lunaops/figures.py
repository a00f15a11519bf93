"""Curves and counts as pictures; matplotlib's door, with scan_figures.py for scans and crops.

Every `*_figure` returns a matplotlib Figure and touches neither the disk nor pyplot's state; `write_figure` writes.
"""

import math
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from lunaops.bootstrap import FrocIntervals
    from lunaops.froc import Froc
    from lunaops.metrics import PrecisionRecallCurve, RocCurve

P = ParamSpec("P")

# Okabe and Ito's colours: told apart with any colour vision, and in grey.
BLUE, ORANGE, GREEN, YELLOW, GREY = "#0072B2", "#D55E00", "#009E73", "#F0E442", "#8C8C8C"
SPLIT_LOOKS = {"train": (BLUE, "-"), "val": (ORANGE, "--"), "test": (GREEN, "-.")}
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "axes.axisbelow": True,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with our STYLE and leave matplotlib's settings as they were."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG that holds no date and no version: equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


@styled
def roc_figure(curve: "RocCurve", *, roc_auc: float, baseline: "tuple[str, RocCurve] | None" = None) -> Figure:
    """The ROC curve; the area in the title. A baseline is another curve and what it is called."""
    figure, axes = _chart(f"ROC: area {_number(roc_auc)}", "false positive rate", "sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="chance")
    if baseline is not None:
        name, other = baseline
        axes.plot(other.false_positive_rate, other.true_positive_rate, color=ORANGE, linestyle="--", label=name)
    axes.plot(curve.false_positive_rate, curve.true_positive_rate, color=BLUE, linewidth=2)
    axes.legend(loc="lower right", frameon=False)
    _square(axes)
    return figure


@styled
def precision_recall_figure(curve: "PrecisionRecallCurve", *, average_precision: float, prevalence: float) -> Figure:
    """Precision over recall; the average precision in the title, chance at the share of positives."""
    title = f"Precision and recall: average precision {_number(average_precision)}"
    figure, axes = _chart(title, "recall", "precision")
    axes.axhline(prevalence, color=GREY, linestyle=":", label=f"chance: {_number(prevalence)}")
    recall = np.concatenate([0 * curve.recall[:1], curve.recall])
    precision = np.concatenate([curve.precision[:1], curve.precision])
    axes.step(recall, precision, where="pre", color=BLUE, linewidth=2)
    axes.legend(loc="best", frameon=False)
    _square(axes)
    return figure


@styled
def froc_figure(froc: "Froc", intervals: "FrocIntervals | None" = None, *, title: str = "FROC") -> Figure:
    """Sensitivity over false positives per scan, from 1/8 to 8 in octaves; the rates that make the CPM marked.

    With intervals, a band between their ends.
    """
    figure, axes = _chart(f"{title}: CPM {_number(froc.cpm)}", "false positives per scan", "sensitivity", (7.0, 5.0))
    rates = list(froc.sensitivity_at)
    if intervals is not None:
        low, high = float(intervals.cpm.low), float(intervals.cpm.high)
        if not math.isnan(low):
            axes.set_title(f"{axes.get_title()}, 95 % interval {_number(low)} to {_number(high)}")
        band = intervals.curve
        axes.fill_between(intervals.curve_fps_per_scan, band.low, band.high, color=BLUE, alpha=0.15, linewidth=0)
    axes.set_title(axes.get_title(), pad=20)  # above what is said below
    axes.set_xscale("log", base=2)
    first, last = rates[0] * 0.6, rates[-1] * 1.18  # room for the first label left of its dot
    axes.set_xlim(first, last)
    axes.set_xticks(rates, [rate_text(rate) for rate in rates], minor=False)
    fine = np.geomspace(first, last, 2000)
    axes.plot(fine, np.interp(fine, froc.fps_per_scan, froc.sensitivity), color=BLUE, linewidth=2)
    axes.plot(rates, list(froc.sensitivity_at.values()), "o", color=ORANGE, markersize=8, clip_on=False)
    for rate, sensitivity in froc.sensitivity_at.items():
        label = _number(sensitivity, 2)
        axes.annotate(label, (rate, sensitivity), (-4, 6), textcoords="offset points", ha="right")  # the curve rises
    axes.set_ylim(0, 1.06)
    found, nodules = froc.true_positives, froc.nodules
    said = f"{found} of {nodules} nodules marked"
    if intervals is not None:
        said += f"; band: 95 % of {intervals.num_draws:,} bootstraps over scans"
    axes.text(0.5, 1.015, said, transform=axes.transAxes, ha="center", color="#444444", fontsize=9.5)
    return figure


@styled
def confusion_figure(metrics: Mapping[str, float], *, classes: tuple[str, str], threshold: float) -> Figure:
    """The four counts of `classification_metrics`, each with its share of the true class."""
    negatives, positives = metrics["num_neg"], metrics["num_pos"]
    rights = [metrics["num_correct_neg"], metrics["num_correct_pos"]]
    counts = np.array([[rights[0], negatives - rights[0]], [positives - rights[1], rights[1]]])
    totals = np.array([[negatives], [positives]])
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    figure, axes = _chart(f"Candidates at threshold {threshold:.3g}", "classified as", "annotated as", (5.4, 4.6))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.3)
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,.0f}\n{100 * shares[row, column]:.1f} %" if totals[row] else "none"
        color = "white" if shares[row, column] > 0.7 else "black"
        axes.text(float(column), float(row), text, ha="center", va="center", color=color, fontsize=15)
    axes.set_xticks([0, 1], classes)
    axes.set_yticks([0, 1], classes, rotation=90, va="center")
    axes.grid(False)
    return figure


@styled
def bands_figure(bands: pd.DataFrame, *, threshold: float) -> Figure:
    """Sensitivity of each diameter band of `sensitivity_by_diameter`, with its counts and 95 % interval."""
    title = f"Nodules found at threshold {threshold:.3g}, by diameter"
    figure, axes = _chart(title, "diameter [mm]", "sensitivity", (7.0, 4.4))
    places = range(len(bands))
    axes.bar(places, np.ones(len(bands)), color="#EEEEEE", width=0.8)
    axes.bar(places, bands["sensitivity"].fillna(0.0), color=BLUE, width=0.8)
    _whiskers(axes, np.array(places), *(bands[name] for name in ("sensitivity", "sensitivity_lo", "sensitivity_hi")))
    for place, band in zip(places, bands.itertuples(), strict=True):
        axes.text(place, 1.02, f"{band.found} / {band.nodules}", ha="center", va="bottom")
    axes.set_xticks(places, [f"{band.low_mm:g} – {band.high_mm:g}" for band in bands.itertuples()])
    axes.set_ylim(0, 1.12)
    axes.set_yticks(np.arange(0, 1.1, 0.2))
    axes.grid(False, axis="x")
    return figure


@styled
def reliability_figure(curve: pd.DataFrame, *, positives: str, ece: float) -> Figure:
    """The share of positives over the mean score of each bin of `reliability`, with its 95 % interval and count."""
    title = f"Reliability: calibration error {_number(ece)}"
    figure, axes = _chart(title, "mean score", f"share of {positives}", (5.4, 5.4))
    filled = curve[curve["candidates"] > 0]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="calibrated")
    axes.plot(filled["mean_score"], filled["share"], "o-", color=BLUE, linewidth=2)
    _whiskers(axes, filled["mean_score"], filled["share"], filled["share_lo"], filled["share_hi"])
    for x, y, count in zip(filled["mean_score"], filled["share_hi"], filled["candidates"], strict=True):
        axes.annotate(f"{count:,}", (x, y), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axes.legend(loc="lower right", frameon=False)
    _square(axes)
    axes.set_ylim(-0.01, 1.08)
    return figure


@styled
def splits_figure(counts: pd.DataFrame, diameters: Mapping[str, pd.Series]) -> Figure:
    """What each split holds, as shares, and how its nodules' diameters [mm] are spread: is it representative?

    `counts` and `diameters` as lunaops/cohort.py gives them; a share of nothing is left out.
    """
    figure = Figure(figsize=(12.0, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15], squeeze=False).flat
    malignancy_known = counts["malignant"] + counts["benign"]
    shares = (
        ("scans without a nodule", counts["scans_without_nodules"], counts["scans"]),
        ("candidates of class nodule", counts["positives"], counts["candidates"]),
        ("malignant, of the nodules where that is known", counts["malignant"], malignancy_known),
    )
    for axes, (name, part, whole) in zip(left.subplots(len(shares), 1), shares, strict=True):
        _share_bars(axes, name, part, whole)
    axes = right.subplots()
    axes.set(title="Nodules up to a diameter", xlabel="diameter [mm]", ylabel="share of the split's nodules")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(-0.02, 1.02)
    for split, values in diameters.items():
        color, line = SPLIT_LOOKS[split]
        label = f"{split}: {len(values):,} nodules"
        if len(values):
            axes.ecdf(values, color=color, linestyle=line, linewidth=2, label=label)
        else:
            axes.plot([], [], color=color, linestyle=line, label=label)
    if known := [value for values in diameters.values() for value in (values.min(), values.max()) if len(values)]:
        low, high = math.floor(math.log2(min(known))), math.ceil(math.log2(max(known)))
        if high - low < 3:  # hardly a power of two, which are the ticks, lies between the diameters
            axes.set_xlim(2.0**low, 2.0 ** max(high, low + 1))
    axes.legend(loc="lower right", frameon=False)
    return figure


@styled
def histogram_figure(
    is_positive: ArrayLike, scores: ArrayLike, *, classes: tuple[str, str], threshold: float
) -> Figure:
    """How the scores of each class are spread, counted on a logarithmic axis."""
    label, score = np.asarray(is_positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    figure, axes = _chart("Scores", "score", "candidates", (7.0, 4.4))
    edges = np.linspace(0, 1, 41).tolist()
    looks = ((score[~label], GREY, True), (score[label], ORANGE, False))
    for name, (values, color, fill) in zip(classes, looks, strict=True):
        axes.hist(
            values, edges, label=f"{name}: {len(values):,}", color=color, histtype="stepfilled" if fill else "step",
            linewidth=2,
        )  # fmt: skip
    axes.axvline(threshold, color=BLUE, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False)
    return figure


def _whiskers(axes: Axes, x: ArrayLike, middle: pd.Series, low: pd.Series, high: pd.Series) -> None:
    """Lines from the lower to the upper end of an interval; none where it is NaN."""
    ends = np.array([middle - low, high - middle]).clip(min=0)  # at a share of 0 or 1 one is 0, but for rounding
    axes.errorbar(x, middle, yerr=ends, fmt="none", ecolor="#444444", elinewidth=1, capsize=3)


def rate_text(rate: float) -> str:
    """A rate as LUNA16 writes it: 1/8, 0.3, 2."""
    return f"1/{1 / rate:g}" if rate < 1 and (1 / rate).is_integer() else f"{rate:g}"


def _share_bars(axes: Axes, name: str, part: pd.Series, whole: pd.Series) -> None:
    share = 100 * part / whole.where(whole > 0)
    axes.set_title(name, loc="left", fontsize=11)
    axes.barh(list(share.index), share.fillna(0), color=[SPLIT_LOOKS[split][0] for split in share.index], height=0.7)
    for place, split in enumerate(share.index):
        text = f"{part[split]:,} of {whole[split]:,}" + (f": {share[split]:.3g} %" if whole[split] else "")
        axes.annotate(text, (share.fillna(0)[split], place), (4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, max(1.8 * share.max(), 1e-3) if share.notna().any() else 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %" if value <= 100 else "")  # the room is the texts'
    axes.grid(False, axis="y")
    axes.invert_yaxis()


def _chart(title: str, x: str, y: str, size: tuple[float, float] = (5.4, 5.0)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def _square(axes: Axes) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), aspect="equal")


def _number(value: float, digits: int = 3) -> str:
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"
