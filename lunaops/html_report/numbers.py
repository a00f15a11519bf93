"""The page's sections of numbers and curves."""

from collections.abc import Mapping

from lunaops.detection import Detection
from lunaops.figures import rate_text
from lunaops.html_report.chart_svg import inline_svg
from lunaops.html_report.digits import decimal, difference, interval, share
from lunaops.html_report.material import Material
from lunaops.html_report.page import Chart, Charts, Number, Numbers, Section, Shaded, Table, Text

COMPARED = {  # metric -> what a reader calls it and its digits; the sensitivities follow the first
    "cpm": ("CPM", 3),
    "average_precision": ("Average precision", 3),
    "roc_auc": ("ROC AUC", 3),
    "by_diameter/roc_auc": ("ROC AUC by diameter alone", 3),
    "pr/precision": ("Precision", 3),
    "pr/recall": ("Recall", 3),
    "pr/f1_score": ("F1", 3),
    "loss/all": ("Loss", 3),
    "froc/true_positives": ("Nodules marked", 0),
    "froc/nodules": ("Nodules", 0),
    "num_scans": ("Scans", 0),
}

WORST_SCANS = 15  # are shown


def headline(material: Material) -> Section:
    """What a reader looks for first, and the sensitivities that make the CPM."""
    evaluation, metrics = material.evaluation, material.evaluation.metrics
    ranked = [
        Number(COMPARED[name][0], decimal(metrics[name]), f"95 %: {ends}" if (ends := interval(metrics, name)) else "")
        for name in ("cpm", "average_precision", "roc_auc", "by_diameter/roc_auc")
        if name in metrics
    ]
    at_threshold = f"at threshold {evaluation.threshold:.3g}"
    classified = [
        Number("Precision", decimal(metrics["pr/precision"]), at_threshold),
        Number("Recall", decimal(metrics["pr/recall"]), at_threshold),
    ]
    if evaluation.detection is None:
        said = Text(
            f"Nodules are told apart here, {evaluation.task.negative} and {evaluation.task.positive}, and not searched "
            "for: FROC, CPM and sensitivity per scan, which count what is found, are not defined. By diameter alone is "
            "the ranking of the nodules by their size, which asks for no model."
        )
        return Section("numbers", "The numbers", [Numbers([*ranked, *classified]), said, *_about_intervals(material)])
    froc = evaluation.detection.froc
    marked = Number("Nodules marked", f"{froc.true_positives:,}", f"of {froc.nodules:,}, at any score")
    numbers, rates = Numbers([*ranked, marked, *classified]), _rates(evaluation.detection, metrics)
    return Section("numbers", "The numbers", [numbers, rates, *_about_intervals(material)])


def against_earlier(material: Material) -> Section | None:
    """The metrics now and as they were last committed; no section where they never were."""
    if material.earlier is None:
        return None
    new, old = material.evaluation.metrics, material.earlier.metrics
    rates = {f"sensitivity_at/{rate:g}": rate_text(rate) for rate in material.evaluation.params.fps_per_scan}
    named = {name: (f"Sensitivity at {rate}", 3) for name, rate in rates.items()}
    first, *others = COMPARED.items()
    rows = [
        [label, decimal(old[name], digits), decimal(new[name], digits), difference(old[name], new[name], digits)]
        for name, (label, digits) in dict([first, *named.items(), *others]).items()
        if name in old and name in new
    ]
    said = f"The previous run is metrics.json as it was last committed, in {material.earlier.commit[:7]}."
    if any(old.get(name) != new.get(name) for name in ("froc/nodules", "num_scans")):
        said += " It was evaluated on other scans or nodules: the two do not compare."
    elif all(row[-1] == "0" for row in rows):
        said += " No number differs."
    caption = "Sensitivity at false positives per scan; precision, recall and F1 each at its run's threshold"
    table = Table(caption, ["Metric", "Previous", "This", "Change"], rows)
    return Section("previous", "Against the previous run", [Text(said), table])


def curves(material: Material) -> Section:
    """FROC where there is one, precision and recall, ROC."""
    evaluation, metrics = material.evaluation, material.evaluation.metrics
    area, average = decimal(metrics["roc_auc"]), decimal(metrics["average_precision"])
    said = {}
    if evaluation.detection is not None:
        rates = evaluation.detection.froc.sensitivity_at.items()
        points = ", ".join(f"{decimal(value, 2)} at {rate_text(rate)}" for rate, value in rates)
        said["froc"] = (
            f"FROC curve: sensitivity {points} false positives per scan.",
            "Sensitivity over all annotated nodules, false positives over all scans; the dots make the CPM.",
        )
    said["precision_recall"] = (
        f"Precision over recall; average precision {average}.",
        f"Over candidates. The dotted line is the precision of calling every candidate {evaluation.task.positive}.",
    )
    said["roc"] = (f"ROC curve; the area is {area}.", "Over candidates.")
    return Section("curves", "Curves", [_charts(material, **said)])


def by_diameter(material: Material) -> Section | None:
    """Nodules found, by their diameter; no section where they are not searched for."""
    if material.evaluation.detection is None:
        return None
    bands, threshold = material.evaluation.detection.bands, material.evaluation.threshold
    rows = [
        [f"{band.low_mm:g} to {band.high_mm:g}", f"{band.nodules:,}", f"{band.found:,}", decimal(sensitivity)]
        for band, sensitivity in zip(bands.itertuples(), bands["sensitivity"].tolist(), strict=True)
    ]
    chart = _charts(material, diameter_bands=("Sensitivity by diameter: the numbers of the table that follows.", ""))
    caption = f"Nodules with a candidate scored at least {threshold:.3g}"
    table = Table(caption, ["Diameter [mm]", "Nodules", "Found", "Sensitivity"], rows)
    return Section("diameter", "By diameter", [chart, table])


def by_scan(material: Material) -> Section | None:
    """The scans with the most to look at: where nodules are missed, then where there are many false positives.

    No section where nodules are not searched for.
    """
    if material.evaluation.detection is None:
        return None
    scans, threshold = material.evaluation.detection.scans, material.evaluation.threshold
    scans = scans.assign(missed=scans["nodules"] - scans["found"])
    worst = scans.sort_values(["missed", "false_positives", "series_uid"], ascending=[False, False, True])
    counted = ["nodules", "missed", "false_positives"]
    rows = [
        [scan["series_uid"], *(f"{scan[name]:,}" for name in counted), decimal(scan["highest_score"])]
        for scan in worst.head(WORST_SCANS).to_dict("records")
    ]
    caption = (
        f"Scans at threshold {threshold:.3g}, most nodules missed first, then most false positives: "
        f"{len(rows)} of {len(scans):,}"
    )
    columns = ["Series", "Nodules", "Missed", "False positives", "Highest score"]
    said = "Nodules that no candidate marks count as missed. All scans are in plots/scans.csv."
    return Section("scans", "By scan", [Table(caption, columns, rows), Text(said)])


def at_threshold(material: Material) -> Section:
    """The confusion matrix, each class on its own, and the scores that the threshold divides."""
    metrics, (negative, positive) = material.evaluation.metrics, material.evaluation.task.classes
    hits, rejections = metrics["num_correct_pos"], metrics["num_correct_neg"]
    misses, alarms = metrics["num_pos"] - hits, metrics["num_neg"] - rejections
    confusion = Table(
        "Candidates by annotated class (rows) and the class that the score gives them (columns)",
        ["", f"called {positive}", f"called {negative}", "all"],
        [[positive, *_counts(hits, misses)], [negative, *_counts(alarms, rejections)]],
    )
    classes = Table(
        "Each class on its own",
        ["Class", "Precision", "Recall", "F1", "Specificity"],
        [
            [positive, *_of_class(hits, misses, alarms, rejections)],
            [negative, *_of_class(rejections, alarms, misses, hits)],
        ],
    )
    said = (
        f"Histogram of the scores of {hits + misses:,.0f} candidates of class {positive} and "
        f"{alarms + rejections:,.0f} of class {negative}."
    )
    chart = _charts(material, scores=(said, "Candidates are counted on a logarithmic axis."))
    return Section("threshold", f"At threshold {material.evaluation.threshold:.3g}", [confusion, classes, chart])


def calibration(material: Material) -> Section:
    """Whether a score is a probability."""
    metrics, point = material.evaluation.metrics, material.evaluation.point
    rows = [["as evaluated", decimal(metrics["ece"], 4), decimal(metrics["brier_score"], 4)]]
    if point.temperature != 1:
        before = (decimal(metrics[f"uncalibrated/{name}"], 4) for name in ("ece", "brier_score"))
        rows.append(["before the temperature", *before])
    scaled = (
        "" if point.temperature == 1 else f" Scores are scaled by temperature {point.temperature:.3g}, fitted on val."
    )
    positives = material.evaluation.task.positives
    said = f"Calibrated, a score is the share of {positives} among the candidates that have it.{scaled}"
    chart = _charts(material, reliability=(f"Share of {positives} over the score, in bins of the score.", ""))
    table = Table("Calibration", ["Scores", "Expected calibration error", "Brier score"], rows)
    return Section("calibration", "Calibration", [Text(said), chart, table])


def against_baseline(material: Material) -> Section | None:
    """What `evaluate.compare_with` found."""
    comparison = material.evaluation.comparison
    return None if comparison is None else Section("baseline", "Against the baseline", [Text(comparison.sentence)])


def _rates(detection: Detection, metrics: Mapping[str, float]) -> Table:
    columns = ["False positives per scan", "Sensitivity"]
    rates = detection.froc.sensitivity_at
    rows = [[rate_text(rate), decimal(sensitivity)] for rate, sensitivity in rates.items()]
    if detection.intervals is not None:
        columns.append("95 % interval")
        for row, rate in zip(rows, rates, strict=True):
            row.append(interval(metrics, f"sensitivity_at/{rate:g}"))
    return Table("Sensitivity by LUNA16's rules; the CPM is the mean", columns, rows)


def _about_intervals(material: Material) -> list[Text]:
    params = material.evaluation.params
    if not params.bootstraps:
        return []
    return [
        Text(
            f"Intervals: the middle 95 % of {params.bootstraps:,} bootstraps over scans (seed {params.seed}), so "
            "how far a number would move had other scans been drawn; they say nothing of another training."
        )
    ]


def _charts(material: Material, **said: tuple[str, str]) -> Charts:
    """The named charts, each with what it shows to whoever cannot see it, and its caption."""
    return Charts(
        [
            Chart(inline_svg(material.charts[name], name=name, label=label), caption)
            for name, (label, caption) in said.items()
        ]
    )


def _counts(*counts: float) -> list[str | Shaded]:
    """A row of the confusion matrix, of one annotated class: its counts and their shares, and their sum."""
    total = sum(counts)
    if not total:
        return ["0"] * (len(counts) + 1)
    cells = [Shaded(f"{count:,.0f} ({100 * count / total:.1f} %)", count / total) for count in counts]
    return [*cells, f"{total:,.0f}"]


def _of_class(hits: float, misses: float, alarms: float, rejections: float) -> list[str]:
    """Precision, recall, F1 and specificity of the class that the counts take for the positive one."""
    values = (
        share(hits, hits + alarms),
        share(hits, hits + misses),
        share(2 * hits, 2 * hits + alarms + misses),
        share(rejections, rejections + alarms),
    )
    return [decimal(value) for value in values]
