"""Stage evaluate: numbers, curves and pictures of one split, from its predictions."""

import logging
from pathlib import Path

from lunaops.baseline import read_baseline
from lunaops.command import run
from lunaops.cores import meanwhile
from lunaops.evaluation import evaluate, told, tracked_metrics
from lunaops.html_report.material import Material, read_data, read_earlier, read_origin
from lunaops.html_report.report import write_report
from lunaops.params import read_params
from lunaops.provenance import content_digest
from lunaops.registration import register
from lunaops.report import read_gallery, write_metrics, write_pictures, write_tables
from lunaops.tables import read_table
from lunaops.task import TASKS
from lunaops.tracking import read_link, start_run


def main(
    predictions: Path,
    gallery: Path,
    nodules: Path,
    excluded: Path,
    scans: Path,
    data: Path,
    training_run: Path,
    metrics: Path,
    plots: Path,
    report: Path,
    params_file: Path = Path("params.yaml"),
) -> None:
    """Evaluate PREDICTIONS by its task's rules: write METRICS (JSON), the folder PLOTS (CSV, PNG) and REPORT (HTML).

    Logs all of them to MLflow. Needs neither a GPU nor a scan: GALLERY holds the pictures, DATA the counts of every
    split. TRAINING_RUN names the run that it belongs to.
    """
    params = read_params(params_file)
    inputs = {"predictions": predictions, "nodules": nodules, "excluded": excluded, "scans": scans}
    tables = {name: read_table(path) for name, path in inputs.items()}
    pictures, parent = read_gallery(gallery), read_link(training_run)
    baseline = read_baseline(params.evaluate.compare_with)
    task = TASKS[params.model.task]
    evaluation = evaluate(**tables, params=params.evaluate, baseline=baseline, task=task)
    write_metrics(evaluation, metrics)
    write_tables(evaluation, plots)
    tags = {"classes": ", ".join(task.classes)}
    with meanwhile(write_pictures, evaluation, pictures, tables["scans"], plots) as all_drawn:
        earlier = read_earlier(metrics, params.evaluate.split)
        origin = read_origin(inputs, parent)
        write_report(Material(evaluation, pictures, tables["scans"], read_data(data), origin, earlier), report)
        with start_run(kind="evaluate", params=params.flattened(), inputs=inputs, tags=tags, parent=parent) as tracker:
            tracker.log_dataset(
                evaluation.predictions,
                name=f"predictions {params.evaluate.split}",
                context="validation" if params.evaluate.split == "val" else "test",
                digest=content_digest(predictions),
                source=predictions,
            )
            tracker.log_metrics(tracked_metrics(evaluation), step=0)
            tracker.log_artifact(metrics)
            tracker.log_artifact(predictions)
            tracker.log_artifact(report)
            all_drawn()
            tracker.log_artifacts(plots, "plots")
            register(evaluation, tables, inputs, tracker)
    for line in told(evaluation):
        logging.getLogger(__name__).info("%s", line)


if __name__ == "__main__":
    run(main)
