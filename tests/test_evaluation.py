import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lunaops.errors import InputError
from lunaops.evaluation import evaluate, headline, told, tracked_metrics
from lunaops.params import EvaluateParams
from lunaops.report import charts, gallery_figures, read_gallery, write_metrics, write_pictures, write_tables
from lunaops.task import MALIGNANCY

PARAMS = {
    "split": "test",
    "threshold_rule": "fixed",
    "threshold": 0.5,
    "min_sensitivity": 0.9,
    "max_fps_per_scan": 1.0,
    "calibrate": False,
    "calibration_bins": 10,
    "compare_with": None,
    "register": None,
    "fps_per_scan": (0.125, 0.25, 1.0),
    "max_marks_per_scan": None,
    "unknown_diameter_mm": 10.0,
    "bootstraps": 30,
    "seed": 1,
    "diameter_bands_mm": (0.0, 6.0, 100.0),
    "gallery": 4,
}
EYE = "[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]"

# Four test scans, one without anything. Nodule 0 is found twice, 1 missed, 2 has no candidate, 3 is of another split.
NODULES = [(0, "a", 0.0, 5.0), (1, "b", 0.0, 8.0), (2, "c", 0.0, 8.0), (3, "x", 0.0, 8.0)]
PREDICTIONS = [
    (10, "a", "test", 0.0, True, 0, 5.0, 0.9),
    (11, "a", "test", 1.0, True, 0, 5.0, 0.7),
    (12, "b", "test", 1.0, True, 1, 8.0, 0.2),
    (13, "b", "test", 90.0, False, -1, 0.0, 0.8),
    (14, "c", "test", 90.0, False, -1, 0.0, 0.1),
    (15, "c", "test", 60.0, False, -1, 0.0, 0.6),
    (16, "x", "val", 0.0, True, 3, 8.0, 0.4),
]
EXCLUDED = [("c", 61.0, -1.0)]


def scans(**splits):
    columns = ["series_uid", "subset", "path", "shape", "spacing", "origin", "direction", "split"]
    rows = [
        (uid, "subset0", f"{uid}.mhd", "[30, 64, 64]", "[0.7, 0.7, 1.25]", "[0.0, 0.0, 0.0]", EYE, split)
        for uid, split in splits.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def tables():
    nodules = pd.DataFrame(NODULES, columns=["nodule_id", "series_uid", "x", "diameter_mm"]).assign(y=0.0, z=0.0)
    columns = ["candidate_id", "series_uid", "split", "x", "is_nodule", "nodule_id", "diameter_mm", "score"]
    predictions = pd.DataFrame(PREDICTIONS, columns=columns).assign(y=0.0, z=0.0, loss=1.0)
    excluded = pd.DataFrame(EXCLUDED, columns=["series_uid", "x", "diameter_mm"]).assign(y=0.0, z=0.0)
    return {
        "predictions": predictions,
        "nodules": nodules,
        "excluded": excluded,
        "scans": scans(a="test", b="test", c="test", d="test", x="val"),
    }


def evaluated(changes=None, **params):
    return evaluate(**{**tables(), **(changes or {})}, params=EvaluateParams(**{**PARAMS, **params}))


def gallery(path, ids):
    np.savez(
        path,
        candidate_id=np.array(ids, dtype=np.int64),
        transverse=np.zeros((len(ids), 48, 48), dtype=np.int16),
        coronal=np.zeros((len(ids), 32, 48), dtype=np.int16),
        sagittal=np.zeros((len(ids), 32, 48), dtype=np.int16),
    )


def test_every_nodule_and_every_scan_of_the_split_is_in_the_denominators():
    metrics = evaluated().metrics
    # One false positive of 0.8 in four scans: nodule 0 is found before it, nodule 1 after, nodule 2 never.
    assert metrics["num_scans"] == 4 and metrics["froc/nodules"] == 3
    assert metrics["sensitivity_at/0.125"] == pytest.approx(1 / 3)
    assert metrics["sensitivity_at/0.25"] == metrics["sensitivity_at/1"] == pytest.approx(2 / 3)
    assert metrics["cpm"] == pytest.approx((1 + 2 + 2) / 9)
    assert metrics["froc/ignored_excluded"] == 1 and metrics["froc/ignored_double"] == 1


def test_only_the_split_is_evaluated_and_its_classes_counted():
    metrics = evaluated().metrics
    assert (metrics["num_pos"], metrics["num_neg"]) == (3, 3)
    assert (metrics["num_correct_pos"], metrics["num_correct_neg"]) == (2, 1)
    assert evaluated(split="val").metrics["num_pos"] == 1


def test_a_candidate_of_another_split_in_the_same_scan_is_no_mark():
    frames = tables()
    leaked = frames["predictions"].assign(split=["test"] * 4 + ["val"] * 3)
    assert evaluated({"predictions": leaked}).metrics["froc/candidates"] == 4


def test_bands_count_nodules_not_candidates():
    assert evaluated().detection.bands[["nodules", "found"]].to_numpy().tolist() == [[1, 1], [2, 0]]


def test_the_parameters_reach_their_rules():
    assert evaluated(max_marks_per_scan=1).metrics["froc/candidates"] == 3
    assert evaluated(unknown_diameter_mm=1.0).metrics["froc/ignored_excluded"] == 0
    assert evaluated(threshold=0.1).metrics["pr/recall"] == 1.0


def test_a_split_without_nodules_is_undefined_and_said_once(caplog):
    frames = tables()
    changes = {"nodules": frames["nodules"][:0], "predictions": frames["predictions"].assign(is_nodule=False)}
    with caplog.at_level(logging.WARNING):
        evaluation = evaluated(changes)
    metrics = evaluation.metrics
    assert headline(evaluation).startswith("test: CPM nan (sensitivity")
    assert math.isnan(metrics["cpm"]) and math.isnan(metrics["average_precision"])
    assert len(caplog.records) == 1
    assert "test: 0 nodules, candidates: 0 nodule and 6 other" in caplog.text and "cpm" in caplog.text


def test_a_defined_evaluation_warns_of_nothing(caplog):
    evaluated()
    assert not caplog.records


def test_a_split_without_predictions_names_what_to_change():
    with pytest.raises(InputError, match=r"no scored candidate is in the split 'val', only in test: .*predict.splits"):
        evaluated({"predictions": tables()["predictions"][:6]}, split="val")


def test_a_split_without_scans_names_what_to_change():
    with pytest.raises(InputError, match=r"no scan is in the split 'train', only in test, val: .*split.test"):
        evaluated(split="train")


def test_predictions_of_another_run_are_refused():
    with pytest.raises(
        InputError, match=r"name 1 series .* the first c: run the predict stage again .*candidate_stride"
    ):
        evaluated({"scans": scans(a="test", b="test", c="val")})


def test_the_intervals_of_the_challenges_numbers_are_metrics_and_may_be_left_out():
    metrics = evaluated().metrics
    assert 0 <= metrics["cpm_lo"] < metrics["cpm"] < metrics["cpm_hi"] <= 1
    assert metrics["sensitivity_lo/0.25"] <= metrics["sensitivity_at/0.25"] <= metrics["sensitivity_hi/0.25"]
    assert metrics["cpm_lo"] == pytest.approx(evaluated().metrics["cpm_lo"])
    assert {evaluated(seed=seed).metrics["cpm_lo"] for seed in range(5)} != {metrics["cpm_lo"]}
    without = evaluated(bootstraps=0)
    assert without.detection.intervals is None and set(metrics) - set(without.metrics) == {
        *("cpm_lo", "cpm_hi", "sensitivity_lo/0.125", "sensitivity_hi/0.125", "sensitivity_lo/0.25"),
        *("sensitivity_hi/0.25", "sensitivity_lo/1", "sensitivity_hi/1"),
        *("roc_auc_lo", "roc_auc_hi", "average_precision_lo", "average_precision_hi"),
    }


def test_calibration_moves_scores_losses_and_thresholds_but_no_rank():
    frames = tables()
    val = frames["predictions"].iloc[[6, 6, 6]].assign(candidate_id=[16, 17, 18], score=[0.6, 0.7, 0.2])
    val = val.assign(is_nodule=[True, False, False], nodule_id=[3, -1, -1])
    predictions = pd.concat([frames["predictions"][:6], val])
    plain, calibrated = (evaluated({"predictions": predictions}, calibrate=on) for on in (False, True))
    same = [name for name in plain.metrics if name.startswith(("cpm", "sens", "froc/", "roc_auc", "average", "num_s"))]
    assert [calibrated.metrics[name] for name in same] == [plain.metrics[name] for name in same]
    assert calibrated.metrics["temperature"] == calibrated.point.temperature > 1
    for name in ("ece", "brier_score"):
        assert calibrated.metrics[f"uncalibrated/{name}"] == plain.metrics[name] != calibrated.metrics[name]
    scores = calibrated.predictions["score"]
    first, *thresholds = calibrated.detection.froc.threshold
    assert np.isinf(first) and set(thresholds) <= set(scores)
    loss = -np.log(np.where(calibrated.predictions["is_nodule"], scores, 1 - scores))
    np.testing.assert_allclose(calibrated.predictions["loss"], loss)
    assert len(told(calibrated)) == 2 and "calibrated: temperature" in told(calibrated)[1]


def test_a_rules_threshold_is_that_of_val_in_every_table(tmp_path):
    evaluation = evaluated(threshold_rule="best_f1")
    assert evaluation.threshold == evaluation.metrics["threshold"] == 0.4
    write_tables(evaluation, tmp_path)
    assert pd.read_csv(tmp_path / "confusion.csv")["predicted"].eq("nodule").sum() == 4
    scans_csv = pd.read_csv(tmp_path / "scans.csv")
    assert scans_csv["found"].sum() == 1 and scans_csv["false_positives"].sum() == 1
    assert evaluation.metrics["at_threshold/sensitivity"] == pytest.approx(1 / 3)
    assert evaluation.metrics["at_threshold/fps_per_scan"] == 0.25
    assert pd.read_csv(tmp_path / "subsets.csv")["nodules"].tolist() == [3]
    assert pd.read_csv(tmp_path / "reliability.csv")["candidates"].sum() == 6


def test_a_baseline_is_compared_with_told_and_written(tmp_path):
    evaluation = evaluated({"baseline": tables()["predictions"].assign(score=0.5)})
    assert evaluation.metrics["versus/cpm"] == evaluation.comparison.differences["cpm"].difference
    assert told(evaluation)[1] == evaluation.comparison.sentence
    write_tables(evaluation, tmp_path)
    assert pd.read_csv(tmp_path / "comparison.csv")["metric"].tolist() == ["cpm", "average_precision"]
    assert evaluated().comparison is None and len(told(evaluated())) == 1


def test_the_headline_says_cpm_and_counts():
    assert "CPM 0.556, 95 % interval 0." in headline(evaluated())
    line = headline(evaluated(bootstraps=0))
    assert line.startswith("test: CPM 0.556 (sensitivity 0.333 at 0.125, 0.667 at 0.25, 0.667 at 1 false positives")
    assert "2 of 3 nodules marked in 4 scans" in line


def test_metrics_go_to_mlflow_below_their_split():
    assert tracked_metrics(evaluated())["test/sensitivity_at/0.25"] == pytest.approx(2 / 3)


def test_the_metrics_file_holds_rounded_numbers_and_null(tmp_path):
    write_metrics(evaluated({"nodules": tables()["nodules"][:0]}), tmp_path / "reports" / "metrics.json")
    text = (tmp_path / "reports" / "metrics.json").read_text()
    numbers = json.loads(text, parse_constant=pytest.fail)["test"]
    assert numbers["cpm"] is None and numbers["correct/pos"] == 66.666667
    assert list(numbers)[:3] == ["threshold_rule", "cpm", "sensitivity_at/0.125"]
    assert numbers["threshold_rule"] == "fixed"


def test_the_tables_hold_what_dvc_plots(tmp_path):
    write_tables(evaluated(), tmp_path)
    froc = pd.read_csv(tmp_path / "froc.csv")
    assert froc.columns.tolist() == ["fps_per_scan", "sensitivity", "threshold"]
    np.testing.assert_allclose(
        froc,
        [[0, 0, np.nan], [0, 1 / 3, 0.9], [0.25, 1 / 3, 0.8], [0.25, 2 / 3, 0.2], [0.5, 2 / 3, 0.1]],
        rtol=1e-5,
    )
    confusion = pd.read_csv(tmp_path / "confusion.csv")
    assert confusion.value_counts().to_dict() == {
        ("nodule", "nodule"): 2,
        ("nodule", "other"): 1,
        ("other", "nodule"): 2,
        ("other", "other"): 1,
    }
    assert pd.read_csv(tmp_path / "diameter_bands.csv")["band"].tolist() == ["0 to 6 mm", "6 to 100 mm"]
    assert pd.read_csv(tmp_path / "roc.csv").columns.tolist() == [
        "false_positive_rate",
        "true_positive_rate",
        "threshold",
    ]
    assert pd.read_csv(tmp_path / "precision_recall.csv").columns.tolist() == ["recall", "precision", "threshold"]


def test_points_on_a_straight_line_are_left_out_of_the_curves(tmp_path):
    frames = tables()
    extra = pd.concat([frames["predictions"].iloc[[4]]] * 50).assign(score=np.linspace(0.001, 0.09, 50))
    write_tables(evaluated({"predictions": pd.concat([frames["predictions"], extra])}), tmp_path)
    assert len(pd.read_csv(tmp_path / "froc.csv")) == 5
    assert pd.read_csv(tmp_path / "froc.csv")["fps_per_scan"].max() == 52 / 4


def test_the_pictures_are_written_also_where_a_gallery_lacks_crops(tmp_path):
    gallery(tmp_path / "gallery.npz", [10, 12, 13, 16])
    write_pictures(evaluated(), read_gallery(tmp_path / "gallery.npz"), tables()["scans"], tmp_path / "plots")
    names = {path.stem for path in (tmp_path / "plots").glob("*.png")}
    assert names == {
        *("roc", "precision_recall", "froc", "diameter_bands", "confusion", "scores", "reliability"),
        *("false_positives", "false_negatives", "true_positives"),
    }
    for path in (tmp_path / "plots").glob("*.png"):
        assert min(Image.open(path).size) > 200


def captions(evaluation, ids, tmp_path):
    """What the galleries show: title -> captions."""
    gallery(tmp_path / "gallery.npz", ids)
    drawn = gallery_figures(evaluation, read_gallery(tmp_path / "gallery.npz"), tables()["scans"])
    return {
        figure.get_suptitle(): [cell.get_supxlabel() for cell in figure.subfigs if cell.axes] for _, figure in drawn
    }


def test_the_galleries_show_the_worst_first_and_a_nodule_once(tmp_path):
    seen = captions(evaluated(), range(10, 17), tmp_path)
    assert list(seen) == [
        "Others scored at least 0.5, highest first: 2 of 2",
        "Nodules with no score from 0.5 on, lowest first: 1 of 1",
        "Nodules scored at least 0.5, highest first: 1 of 1",
    ]
    others, missed, found = seen.values()
    assert [caption.split(", ")[1] for caption in others] == ["candidate 13", "candidate 15"]
    assert missed == ["…b, candidate 12, 8.0 mm, score 0.200\nx 1.0, y 0.0, z 0.0 mm"]
    assert found[0].startswith("…a, candidate 10, 5.0 mm, score 0.900")


def test_the_lowest_of_the_missed_come_first(tmp_path):
    missed = list(captions(evaluated(threshold=0.95), range(10, 17), tmp_path).values())[1]
    assert [caption.split(", ")[1] for caption in missed] == ["candidate 12", "candidate 11"]


def test_a_gallery_says_how_many_it_leaves_out(tmp_path):
    seen = captions(evaluated(gallery=1), range(10, 17), tmp_path)
    assert next(iter(seen)).endswith("1 of 2")


def test_a_gallery_that_is_missing_or_not_whole_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gallery.npz: no such file; run the predict stage"):
        read_gallery(tmp_path / "gallery.npz")
    np.savez(tmp_path / "gallery.npz", candidate_id=np.zeros(0), transverse=np.zeros(0))
    with pytest.raises(InputError, match=r"lacks coronal, sagittal"):
        read_gallery(tmp_path / "gallery.npz")


# Of malignant nodules: 1 (8 mm) and 3 (of val). Of benign ones: 0 (5 mm, twice) and 4, larger than 1 but scored lower.
TOLD_APART = [(10, "a", 0, False, 0.9), (11, "a", 0, False, 0.3), (12, "b", 1, True, 0.6), (13, "b", 4, False, 0.2)]


def told_apart_tables():
    frames = tables()
    frames["nodules"].loc[4] = (4, "b", 50.0, 9.0, 0.0, 0.0)
    columns = ["candidate_id", "series_uid", "nodule_id", "is_malignant", "score"]
    rows = pd.DataFrame(TOLD_APART, columns=columns).assign(split="test", is_nodule=True, x=0.0, y=0.0, z=0.0)
    return {**frames, "predictions": rows.assign(diameter_mm=0.0, loss=1.0), "task": MALIGNANCY}


def told_apart(**params):
    return evaluated(told_apart_tables(), **params)


def test_nodules_told_apart_have_no_number_of_scans_and_one_by_diameter_alone():
    metrics = told_apart().metrics
    assert not {name for name in metrics if name.startswith(("cpm", "froc", "sensitivity", "at_threshold"))}
    assert (metrics["num_pos"], metrics["num_neg"], metrics["correct/pos"]) == (1, 3, 100)
    assert metrics["roc_auc"] == metrics["by_diameter/roc_auc"] == pytest.approx(2 / 3)  # each has another above it
    line = headline(told_apart(bootstraps=0))
    assert line.startswith(
        "test: ROC AUC 0.667 (0.667 by diameter alone), average precision 0.500; 1 candidates of mal"
    )


def test_pictures_and_tables_of_nodules_told_apart_name_the_two(tmp_path):
    write_tables(told_apart(), tmp_path)
    assert pd.read_csv(tmp_path / "confusion.csv").value_counts().to_dict() == {
        ("benign", "benign"): 2,
        ("benign", "malignant"): 1,
        ("malignant", "malignant"): 1,
    }
    assert {path.stem for path in tmp_path.glob("*.csv")} == {"roc", "precision_recall", "confusion", "reliability"}
    assert {name for name, _ in charts(told_apart())} == {
        "roc",
        "precision_recall",
        "confusion",
        "scores",
        "reliability",
    }
    assert list(captions(told_apart(), range(10, 14), tmp_path)) == [
        "Benign nodules scored at least 0.5, highest first: 1 of 1",
        "Malignant nodules with no score from 0.5 on, lowest first: 0 of 0",
        "Malignant nodules scored at least 0.5, highest first: 1 of 1",
    ]


def test_predictions_of_another_task_are_refused():
    with pytest.raises(InputError, match="no column is_malignant, so they are not of model.task malignancy"):
        evaluated({"task": MALIGNANCY})


def test_two_that_tell_nodules_apart_compare_by_their_ranking():
    baseline = told_apart().predictions.assign(score=[0.1, 0.2, 0.6, 0.3])
    compared = evaluated({**told_apart_tables(), "baseline": baseline}).comparison
    assert list(compared.differences) == ["roc_auc", "average_precision"]
    assert compared.differences["roc_auc"].difference == pytest.approx(-1 / 3)
