"""The pipeline with the other classes: the data set and crops stay, a model of nodules is fine-tuned."""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from html_reading import Page
from repository import call, change, copy_of, repro

from lunaops.model import read_model_files

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("repro")]


@pytest.fixture(scope="module")
def repository(built: Path) -> Path:
    """Fine-tuned from the model of nodules."""
    repository = copy_of(built, "malignancy")
    shutil.copytree(repository / "models" / "best", repository / "start")
    change(repository, {"model.task": "malignancy", "train.init_from": "start", "train.trainable_blocks": 1})
    assert repro(repository) == ["train", "predict", "evaluate"]
    return repository


def test_only_nodules_of_known_malignancy_are_scored(repository: Path) -> None:
    scores, nodules = (pd.read_parquet(repository / "data" / f"{name}.parquet") for name in ("predictions", "nodules"))
    candidates = pd.read_parquet(repository / "data" / "candidates.parquet")
    wanted = candidates[candidates["is_nodule"] & candidates["split"].isin(["val", "test"])]
    assert scores["candidate_id"].tolist() == wanted["candidate_id"].tolist()
    truth = nodules.set_index("nodule_id")["is_malignant"].astype(bool)
    assert scores["is_malignant"].tolist() == truth[scores["nodule_id"]].tolist()
    assert scores["is_malignant"].nunique() == 2


def test_the_frozen_blocks_are_the_starts_and_the_head_is_not(repository: Path) -> None:
    (start, _), (tuned, said) = (read_model_files(repository / name) for name in ("start", "models/best"))
    assert said["task"] == {"name": "malignancy", "classes": ["benign", "malignant"]}
    same = {name.partition(".")[0] for name in start if start[name].equal(tuned[name])}
    assert same == {"tail_batchnorm", "block1", "block2", "block3"}


def test_numbers_and_pictures_are_of_the_two_classes(repository: Path) -> None:
    numbers = json.loads((repository / "reports" / "metrics.json").read_text())["test"]
    assert 0 <= numbers["by_diameter/roc_auc"] <= 1
    assert not {name for name in numbers if name.startswith(("cpm", "froc", "sensitivity", "at_threshold"))}
    plots = repository / "reports" / "plots"
    assert set(pd.read_csv(plots / "confusion.csv")["actual"]) == {"benign", "malignant"}
    assert not {"froc.csv", "froc.png", "scans.csv", "diameter_bands.png"} & {path.name for path in plots.iterdir()}
    text = (repository / "reports" / "report.html").read_text()
    Page(text)
    assert "FROC, CPM and sensitivity per scan, which count what is found, are not defined" in text


def test_the_commands_and_dvc_know_it(repository: Path) -> None:
    def said(*words: str, code: int = 0) -> str:
        return call(repository, *words, code=code)

    assert "by_diameter/roc_auc" in said("dvc", "metrics", "diff", "HEAD")
    said("dvc", "plots", "show")
    assert "by_diameter/roc_auc" in said(sys.executable, "-m", "lunaops", "metrics")
    assert "malignant" in said(sys.executable, "-m", "lunaops", "summary")


def test_a_model_of_other_classes_scores_nothing(repository: Path) -> None:
    other = copy_of(repository, "nodules again")
    change(other, {"model.task": "nodule"})
    output = call(other, "dvc", "repro", "--single-item", "predict", code=255)
    assert "error: models/best: a model of model.task malignancy, params.yaml says nodule: train again" in output
