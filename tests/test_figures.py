import math

import matplotlib
import numpy as np
import pandas as pd
import pytest

from lunaops import figures
from lunaops.bootstrap import FrocIntervals, Interval
from lunaops.calibration import reliability
from lunaops.cohort import count_splits, diameters_of_splits
from lunaops.froc import Froc
from lunaops.metrics import classification_metrics, precision_recall, roc

CLASSES = ("other", "nodule")
IS_NODULE, SCORES = [False, False, True, True], [0.1, 0.6, 0.4, 0.9]
BANDS = ["low_mm", "high_mm", "nodules", "found", "sensitivity", "sensitivity_lo", "sensitivity_hi"]


def a_froc(**changes):
    empty = np.empty(0)
    counts = dict.fromkeys(
        [
            "true_positives",
            "false_positives",
            "false_negatives",
            "candidates",
            "nodules",
            "ignored_excluded",
            "ignored_double",
        ],
        3,
    )
    values = {
        "fps_per_scan": np.array([0.0, 8.0]),
        "sensitivity": np.array([0.0, 1.0]),
        "threshold": empty,
        "sensitivity_at": {0.125: 0.25, 1.0: 0.5, 8.0: 1.0},
        "cpm": 0.58333,
        **counts,
    }
    return Froc(**{**values, **changes})


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_equal_figures_give_equal_bytes_without_date_or_version(tmp_path):
    for name in ("one", "two"):
        figures.write_figure(figures.froc_figure(a_froc()), tmp_path / "new folder" / f"{name}.png")
    one, two = ((tmp_path / "new folder" / f"{name}.png").read_bytes() for name in ("one", "two"))
    assert one == two
    assert b"tEXt" not in one and b"tIME" not in one


def test_drawing_leaves_matplotlibs_settings_alone():
    with matplotlib.rc_context({"font.size": 3, "axes.grid": False}):
        figures.froc_figure(a_froc())
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.grid"]) == (3, False)


def test_the_froc_runs_in_octaves_with_its_rates_marked_and_the_cpm_above():
    axes = figures.froc_figure(a_froc()).axes[0]
    assert axes.get_xscale() == "log" and axes.xaxis.get_transform().base == 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1/8", "1", "8"]
    assert axes.get_title() == "FROC: CPM 0.583"
    marked = axes.lines[1]
    assert marked.get_xydata().tolist() == [[0.125, 0.25], [1.0, 0.5], [8.0, 1.0]]
    assert texts(axes) == ["0.25", "0.50", "1.00", "3 of 3 nodules marked"]


def test_the_first_rates_label_keeps_off_the_axis_also_where_the_page_makes_the_chart_smaller():
    figure = figures.froc_figure(a_froc())
    figure.set_size_inches(5.4, 4.4)
    figure.draw_without_rendering()
    [axes] = figure.axes
    gap = axes.texts[0].get_window_extent().x0 - axes.get_window_extent().x0
    assert gap > 0.05 * figure.dpi


def test_the_froc_has_a_band_between_the_ends_of_its_intervals():
    low, high = np.array([0.1, 0.4]), np.array([0.3, 0.9])
    one = Interval(mean=(low + high) / 2, low=low, high=high)
    cpm = Interval(*np.array([0.55, 0.45, 0.7]))
    intervals = FrocIntervals(
        sensitivity=one, cpm=cpm, curve_fps_per_scan=np.array([0.125, 8.0]), curve=one, num_draws=1000, seed=1
    )
    axes = figures.froc_figure(a_froc(), intervals).axes[0]
    [band] = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(0.125, 0.1), (0.125, 0.3), (8.0, 0.4), (8.0, 0.9)}
    assert axes.get_title() == "FROC: CPM 0.583, 95 % interval 0.450 to 0.700"
    assert texts(axes)[-1] == "3 of 3 nodules marked; band: 95 % of 1,000 bootstraps over scans"


def test_what_is_undefined_is_drawn_and_called_so(tmp_path):
    nan = math.nan
    none = Interval(*np.full((3, 1), nan))
    nowhere = FrocIntervals(
        sensitivity=none,
        cpm=Interval(nan, nan, nan),
        curve_fps_per_scan=np.ones(1),
        curve=none,
        num_draws=1,
        seed=1,
    )
    metrics = classification_metrics([], [], [], threshold=0.5)
    bands = pd.DataFrame([(0, 4, 0, 0, nan, nan, nan)], columns=BANDS)
    drawn = [
        figures.froc_figure(a_froc(cpm=nan), nowhere),
        figures.froc_figure(a_froc(cpm=nan, sensitivity=np.full(2, nan), sensitivity_at={1.0: nan})),
        figures.roc_figure(roc([], []), roc_auc=nan),
        figures.precision_recall_figure(precision_recall([], []), average_precision=nan, prevalence=nan),
        figures.confusion_figure(metrics, classes=CLASSES, threshold=0.5),
        figures.bands_figure(bands, threshold=0.5),
        figures.histogram_figure([], [], classes=CLASSES, threshold=0.5),
        figures.reliability_figure(reliability([], [], bins=2), positives="nodules", ece=nan),
    ]
    for number, figure in enumerate(drawn):
        figures.write_figure(figure, tmp_path / f"{number}.png")
    assert [figure.axes[0].get_title().endswith("undefined") for figure in drawn[:4]] == [True] * 4
    assert drawn[0].axes[0].get_title() == "FROC: CPM undefined"
    assert texts(drawn[4].axes[0]) == ["none"] * 4
    assert texts(drawn[5].axes[0]) == ["0 / 0"]


def test_the_curves_are_drawn_from_their_points():
    axes = figures.roc_figure(roc(IS_NODULE, SCORES), roc_auc=0.75).axes[0]
    assert axes.get_title() == "ROC: area 0.750"
    assert axes.lines[1].get_xydata().tolist() == [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]]
    curve = precision_recall(IS_NODULE, SCORES)
    axes = figures.precision_recall_figure(curve, average_precision=0.83, prevalence=0.5).axes[0]
    assert axes.lines[1].get_xydata()[:2].tolist() == [[0, 1], [0.5, 1]]


def test_the_confusion_matrix_has_the_truth_down_and_the_call_across():
    is_nodule, scores = [False] * 4 + [True] * 2, [0.1, 0.1, 0.1, 0.9, 0.1, 0.9]
    axes = figures.confusion_figure(
        classification_metrics(is_nodule, scores, scores, threshold=0.5), classes=CLASSES, threshold=0.5
    ).axes[0]
    assert texts(axes) == ["3\n75.0 %", "1\n25.0 %", "1\n50.0 %", "1\n50.0 %"]
    assert axes.get_ylabel() == "annotated as" and axes.get_xlabel() == "classified as"


def test_bands_say_how_many_nodules_they_stand_on():
    bands = pd.DataFrame(
        [(0, 4, 3, 1, 1 / 3, 0.0615, 0.792), (4, 100, 7, 7, 1.0, 0.646, 1.0)],
        columns=BANDS,
    )
    axes = figures.bands_figure(bands, threshold=0.5).axes[0]
    assert texts(axes) == ["1 / 3", "7 / 7"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0 – 4", "4 – 100"]
    [whiskers] = axes.containers[2].lines[2]
    assert [segment[:, 1].tolist() for segment in whiskers.get_segments()] == [
        pytest.approx([0.0615, 0.792]),
        pytest.approx([0.646, 1.0]),
    ]


def test_reliability_shows_the_bins_that_hold_candidates():
    curve = reliability([0, 1, 1], [0.2, 0.4, 0.9], bins=2)
    axes = figures.reliability_figure(curve, positives="nodules", ece=0.2).axes[0]
    assert axes.get_title() == "Reliability: calibration error 0.200"
    assert axes.lines[1].get_xydata().tolist() == [[pytest.approx(0.3), 0.5], [0.9, 1.0]]
    assert texts(axes) == ["2", "1"]


def test_the_histogram_counts_each_class():
    axes = figures.histogram_figure(IS_NODULE, SCORES, classes=CLASSES, threshold=0.5).axes[0]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["other: 2", "nodule: 2", "threshold 0.5"]


def test_the_splits_are_shown_as_shares_and_a_share_of_nothing_is_left_out(tmp_path):
    scans = pd.DataFrame({"series_uid": list("1234"), "split": ["train", "train", "train", "val"]})
    nodules = pd.DataFrame({"series_uid": ["1", "1", "4"], "diameter_mm": [7.5, 4.5, 6.0], "is_malignant": [pd.NA] * 3})
    candidates = pd.DataFrame({"split": ["train"] * 4, "is_nodule": [True, False, False, False]})
    counts = count_splits(scans, nodules, candidates)
    figure = figures.splits_figure(counts, diameters_of_splits(scans, nodules))
    without, positive, malignant, spread = figure.axes
    assert texts(without) == ["2 of 3: 66.7 %", "0 of 1: 0 %", "0 of 0"]
    assert texts(positive) == ["1 of 4: 25 %", "0 of 0", "0 of 0"]
    assert texts(malignant) == ["0 of 0"] * 3
    legend = [text.get_text() for text in spread.get_legend().get_texts()]
    assert legend == ["train: 2 nodules", "val: 1 nodules", "test: 0 nodules"]
    assert spread.lines[0].get_xdata()[1:].tolist() == [4.5, 7.5]
    low, high = spread.get_xlim()
    assert len([tick for tick in spread.get_xticks() if low <= tick <= high]) >= 2
    figures.write_figure(figure, tmp_path / "data.png")
