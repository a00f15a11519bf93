"""The command `python -m lunaops crossval`."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lunaops.crossval import fetch_outputs, fetch_subsets, pool, run_fold
from lunaops.destination import check_destination
from lunaops.params import read_params
from lunaops.task import TASKS

TABLES = ("predictions.parquet", "nodules.parquet", "excluded.parquet", "scans.csv")
GALLERY = "gallery.npz"


def crossval(
    data: Annotated[Path, typer.Option(help="The folder of the tables that the stages write.")] = Path("data"),
    out: Annotated[Path, typer.Option(help="The folder of the pooled numbers, curves and pictures.")] = Path(
        "crossval"
    ),
) -> None:
    """Train and test every fold of split.folds, pool their predictions and evaluate them as one, as LUNA16 does.

    A fold is an experiment of DVC (fold-0, ...) and runs in MLflow like any other; what is done is not done again.
    """
    from lunaops.evaluation import evaluate, told  # matplotlib, with report: the other commands need not wait
    from lunaops.report import read_gallery, write_metrics, write_pictures, write_tables

    check_destination("--out", out / "metrics.json")
    params = read_params(Path("params.yaml"))  # of which DVC makes each fold's
    fetch_subsets()
    for fold in params.split.folds:
        run_fold(fold)
    with tempfile.TemporaryDirectory() as folder:
        outputs = [data / name for name in (*TABLES, GALLERY)]
        fetched = [fetch_outputs(fold, outputs, Path(folder, str(fold))) for fold in params.split.folds]
        tables = pool(fetched)
        pictures = {key: planes for paths in fetched for key, planes in read_gallery(paths["gallery"]).items()}
    pooled = params.evaluate.model_copy(update={"split": "test", "compare_with": None})
    evaluation = evaluate(**tables, params=pooled, task=TASKS[params.model.task])
    write_metrics(evaluation, out / "metrics.json")
    write_tables(evaluation, out / "plots")
    write_pictures(evaluation, pictures, tables["scans"], out / "plots")
    for line in told(evaluation):
        typer.echo(line)
