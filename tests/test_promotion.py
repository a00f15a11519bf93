"""Which challenger becomes the champion, in a real registry."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from conftest import ROOT
from test_evaluation import PARAMS
from tracked import start, trained
from typer.testing import CliRunner

from lunaops.__main__ import app
from lunaops.comparison import Difference
from lunaops.errors import InputError
from lunaops.evaluation import evaluate, headline
from lunaops.params import EvaluateParams
from lunaops.promotion import objection
from lunaops.registration import register

if TYPE_CHECKING:
    from mlflow import MlflowClient

NUM_SCANS = 10


@pytest.mark.parametrize(
    ("low", "margin", "is_promoted"),
    [(0.0, 0.0, True), (0.01, 0.0, True), (-0.01, 0.0, False), (-0.05, 0.05, True), (-0.051, 0.05, False)],
)
def test_the_lower_end_of_the_interval_decides(low: float, margin: float, is_promoted: bool) -> None:
    said = objection(Difference(0.7, 0.7, 0.0, low, 0.1), margin)
    assert (said is None) == is_promoted
    if said:
        assert f"worse by up to {-low:.4f}" in said and f"--margin {margin:g}" in said


def test_without_an_interval_nothing_is_promoted() -> None:
    said = objection(Difference(0.8, 0.7, 0.1, float("nan"), float("nan")), 1.0)
    assert said is not None
    assert "evaluate.bootstraps" in said


def tables(num_missed: int, *, num_scans: int = NUM_SCANS, split: str = "test") -> dict[str, pd.DataFrame]:
    """A nodule and another candidate a scan; the model scores so many nodules below all other candidates."""
    uids = [f"1.2.{scan:03d}" for scan in range(num_scans)]
    scores = [0.1 if scan < num_missed else 0.9 for scan in range(num_scans)]
    nodule = {"is_nodule": True, "nodule_id": range(num_scans), "diameter_mm": 6.0, "score": scores, "x": 0.0}
    other = {"is_nodule": False, "nodule_id": -1, "diameter_mm": 0.0, "score": 0.5, "x": 90.0}
    rows = pd.concat([pd.DataFrame({"series_uid": uids, **kind}) for kind in (nodule, other)], ignore_index=True)
    nodules = pd.DataFrame({"nodule_id": range(num_scans), "series_uid": uids, "x": 0.0, "y": 0.0, "z": 0.0})
    nodules["diameter_mm"] = 6.0
    return {
        "predictions": rows.assign(candidate_id=range(len(rows)), split=split, y=0.0, z=0.0, loss=1.0),
        "nodules": nodules,
        "excluded": nodules[:0],
        "scans": pd.DataFrame({"series_uid": uids, "subset": "subset4", "split": split}),
    }


def registered(store: "MlflowClient", name: str, num_missed: int, *, split: str = "test", num_scans: int = 10) -> str:
    """Evaluate a model and register it as stage evaluate does; returns the evaluation's headline."""
    frames = tables(num_missed, split=split, num_scans=num_scans)
    folder = Path(name)
    folder.mkdir()
    files = {"predictions": folder / "predictions.parquet", "nodules": folder / "nodules.parquet"}
    files |= {"excluded": folder / "excluded.parquet", "scans": folder / "scans.csv"}
    for table, file in files.items():
        frames[table].to_csv(file, index=False) if file.suffix == ".csv" else frames[table].to_parquet(file)
    params = EvaluateParams(**(PARAMS | {"register": "nodules", "split": split}))
    evaluation = evaluate(**frames, params=params)
    link, _ = trained(store, name)
    with start("evaluate", parent=link) as tracker:
        tracker.log_artifact(files["predictions"])
        register(evaluation, frames, files, tracker)
    return headline(evaluation)


def promote(*options: str) -> str:
    return CliRunner().invoke(app, ["promote", "nodules", *options], catch_exceptions=False).output


def refusal(*options: str) -> str:
    with pytest.raises(InputError) as raised:
        promote(*options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def champion(store: "MlflowClient") -> str:
    return str(store.get_model_version_by_alias("nodules", "champion").version)


@pytest.fixture
def registry(store: "MlflowClient") -> "MlflowClient":
    """An empty registry, and a folder with params.yaml."""
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    return store


@pytest.mark.slow
def test_the_evidence_says_what_was_measured_on_what(registry: "MlflowClient") -> None:
    said = registered(registry, "first", 3)
    version = registry.get_model_version_by_alias("nodules", "challenger")
    assert version.description == said
    cpm, low, high = (float(version.tags[f"lunaops.{name}"]) for name in ("cpm", "cpm_lo", "cpm_hi"))
    assert 0 < low < cpm < high <= 1 and f"CPM {cpm:.3f}" in said
    assert version.tags["lunaops.split"] == "test"
    assert re.fullmatch("[0-9a-f]{32}", version.tags["lunaops.evaluated_data"])
    assert re.fullmatch("[0-9a-f]{32}", version.tags["dvc.predictions"])
    registered(registry, "second", 1)
    second = registry.get_model_version_by_alias("nodules", "challenger")
    assert second.tags["lunaops.evaluated_data"] == version.tags["lunaops.evaluated_data"]
    assert second.tags["dvc.predictions"] != version.tags["dvc.predictions"]


@pytest.mark.slow
def test_the_first_challenger_becomes_champion_and_stays_it(registry: "MlflowClient") -> None:
    assert refusal().startswith("nodules has no challenger: set evaluate.register: nodules")
    registered(registry, "first", 3)
    assert promote() == "nodules: version 1 is champion: there was none before, so nothing was compared\n"
    assert champion(registry) == "1"
    assert promote() == "nodules: version 1 is champion already\n"


@pytest.mark.slow
def test_a_better_challenger_is_promoted_and_a_worse_one_only_within_the_margin(registry: "MlflowClient") -> None:
    registered(registry, "first", 9)
    promote()
    registered(registry, "second", 1)
    first, second = promote().splitlines()
    assert re.fullmatch(
        r"nodules: version 2 against 1: CPM 0\.\d+ against 0\.\d+: 0\.\d+ higher, 95 % interval \+0\.\d+ to \+0\.\d+, "
        "so a difference is shown",
        first,
    )
    assert second == "nodules: version 2 is champion: the lower end of the interval is not below 0"
    registered(registry, "third", 2)
    refused = refusal()
    assert refused.startswith("nodules: version 2 stays champion: the challenger may be worse by up to 0.")
    assert champion(registry) == "2"
    needed = float(re.findall(r"up to (0\.\d+)", refused)[0])
    assert f"--margin {needed - 0.01:g}" in refusal("--margin", f"{needed - 0.01:g}")
    assert "version 3 is champion" in promote("--margin", f"{needed + 0.0001:g}")
    assert champion(registry) == "3"


@pytest.mark.slow
def test_other_test_data_are_refused_and_named(registry: "MlflowClient") -> None:
    registered(registry, "first", 3)
    promote()
    registered(registry, "more", 0, num_scans=12)
    assert (
        "nodules version 2 (challenger) and nodules version 1 (champion) were not evaluated on the same data: "
        "scans 12 against 10, 2 of one only; nodules 12 against 10, 2 of one only; candidates 24 against 20"
    ) in refusal()
    registered(registry, "val", 0, split="val")
    assert "split val against test" in refusal()
    assert champion(registry) == "1"


@pytest.mark.slow
def test_a_champion_without_evidence_is_named(registry: "MlflowClient") -> None:
    registered(registry, "first", 3)
    by_hand = registry.create_model_version("nodules", "somewhere")
    registry.set_registered_model_alias("nodules", "champion", by_hand.version)
    assert refusal() == (
        "nodules version 2 (champion) has no evaluation as evidence: "
        "evaluate that model with evaluate.register: nodules"
    )


@pytest.mark.slow
def test_as_a_command_a_refusal_is_one_line_and_exit_code_1(registry: "MlflowClient") -> None:
    registered(registry, "first", 1)
    promote()
    registered(registry, "second", 9)
    command = [sys.executable, "-m", "lunaops", "promote", "nodules", "--margin", "0.1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("nodules: version 2 against 1: CPM 0.") and done.stdout.count("\n") == 1
    assert done.stderr.startswith("error: nodules: version 1 stays champion: ") and done.stderr.count("\n") == 1
