import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tracked import trained

from lunaops.errors import InputError
from lunaops.html_report.evidence import COUNTED
from lunaops.params import read_params
from stages.evaluate import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
EYE = "[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]"


def write_inputs(folder):
    """Two test scans, one nodule, found at 0.9 before the only false positive at 0.8; as `main` wants them."""
    nodules = pd.DataFrame(
        {"nodule_id": [0], "series_uid": ["1.2.056"], "diameter_mm": [5.0], "x": 0.0, "y": 0.0, "z": 0.0}
    )
    predictions = pd.DataFrame(
        {
            "candidate_id": [0, 1],
            "series_uid": ["1.2.056", "1.2.57"],
            "split": "test",
            "x": [1.0, 9.0],
            "y": 0.0,
            "z": 0.0,
            "is_nodule": [True, False],
            "nodule_id": [0, -1],
            "diameter_mm": [5.0, 0.0],
            "score": [0.9, 0.8],
            "loss": [0.1, 1.6],
        }
    )
    scans = pd.DataFrame(
        {
            "series_uid": ["1.2.056", "1.2.57"],
            "subset": "subset4",
            "path": "x.mhd",
            "shape": "[30, 64, 64]",
            "spacing": "[0.7, 0.7, 1.25]",
            "origin": "[0.0, 0.0, 0.0]",
            "direction": EYE,
            "split": "test",
        }
    )
    predictions.to_parquet(folder / "predictions.parquet")
    nodules.to_parquet(folder / "nodules.parquet")
    nodules[:0].to_parquet(folder / "excluded.parquet")
    scans.to_csv(folder / "scans.csv", index=False)
    planes = {"transverse": (2, 48, 48), "coronal": (2, 32, 48), "sagittal": (2, 32, 48)}
    images = {plane: np.full(shape, -850, dtype=np.int16) for plane, shape in planes.items()}
    np.savez(folder / "gallery.npz", candidate_id=np.arange(2), **images)
    counts = dict.fromkeys(COUNTED, 1) | {"diameter_mm_percentiles": {"50": 5.0}}
    data = {"strategy": "subset", "splits": {"test": counts}, "left_out": {}}
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "run.json").write_text('{"journal_id": null, "name": "first"}')
    return {
        "predictions": folder / "predictions.parquet",
        "gallery": folder / "gallery.npz",
        "nodules": folder / "nodules.parquet",
        "excluded": folder / "excluded.parquet",
        "scans": folder / "scans.csv",
        "data": folder / "data.json",
        "training_run": folder / "run.json",
        "metrics": folder / "reports" / "metrics.json",
        "plots": folder / "reports" / "plots",
        "report": folder / "reports" / "report.html",
        "params_file": ROOT / "params.yaml",
    }


def registering(folder):
    """The params of the project, but for evaluate.register."""
    text = (ROOT / "params.yaml").read_text().replace("register: null ", "register: nodules ")
    (folder / "params.yaml").write_text(text)
    assert read_params(folder / "params.yaml").flattened()["evaluate.register"] == "nodules"
    return folder / "params.yaml"


def options(paths):
    return [word for name, path in paths.items() for word in (f"--{name.replace('_', '-')}", str(path))]


def outputs(paths):
    return {
        path.name: path.read_bytes() for path in [paths["metrics"], paths["report"], *sorted(paths["plots"].iterdir())]
    }


@pytest.fixture
def off(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")


def test_the_stage_writes_numbers_tables_and_pictures_in_equal_bytes_and_says_the_headline(tmp_path, off, caplog):
    paths = write_inputs(tmp_path)
    written = {"metrics": "metrics.json", "plots": "plots", "report": "report.html"}
    again = {**paths, **{option: tmp_path / "again" / name for option, name in written.items()}}
    with caplog.at_level("INFO"):
        main(**paths)
    main(**again)
    assert json.loads(paths["metrics"].read_text())["test"]["cpm"] == 1.0
    assert {"report.html", "froc.csv", "froc.png", "confusion.csv", "false_positives.png"} <= set(outputs(paths))
    assert outputs(paths) == outputs(again)
    assert "test: CPM 1.000" in caplog.text


def test_a_missing_table_is_named(tmp_path, off):
    paths = write_inputs(tmp_path)
    paths["nodules"].unlink()
    with pytest.raises(InputError, match=r"nodules.parquet: no such table"):
        main(**paths)


def test_as_a_command_it_needs_no_torch_and_bad_input_is_one_line(tmp_path):
    paths = write_inputs(tmp_path)
    code = (
        "import sys; from lunaops.command import run; from stages.evaluate import main\n"
        "try: run(main)\n"
        "finally: print(sorted({'torch', 'mlflow', 'SimpleITK'} & set(sys.modules)))"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "off"}

    def command(paths):
        return subprocess.run(
            [sys.executable, "-c", code, *options(paths)],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = command(paths)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    failed = command({**paths, "gallery": tmp_path / "elsewhere.npz"})
    assert failed.returncode == 1
    assert failed.stderr.splitlines() == [
        f"error: {tmp_path}/elsewhere.npz: no such file; run the predict stage, or `dvc pull` it"
    ]


def test_to_register_without_mlflow_costs_a_line_and_none_of_the_files(tmp_path, off, caplog):
    paths = {**write_inputs(tmp_path), "params_file": registering(tmp_path)}
    main(**paths)
    assert "report.html" in outputs(paths)
    assert [text for text in caplog.messages if "no version of nodules is registered" in text]


def test_it_registers_the_trained_model_without_torch_and_logs_what_its_metrics_were_measured_on(tmp_path, store):
    link, model_id = trained(store, "first")
    paths = {**write_inputs(tmp_path), "params_file": registering(tmp_path)}
    (tmp_path / "run.json").write_text(json.dumps({"journal_id": link.journal_id, "name": link.name}))
    code = (
        "import sys; from lunaops.command import run; from stages.evaluate import main\n"
        "try: run(main)\n"
        "finally: print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *options(paths)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n", done.stderr
    version = store.get_model_version_by_alias("nodules", "challenger")
    assert model_id in version.source
    assert version.tags["lunaops.cpm"] == "1.000000"
    logged = {item.path for item in store.list_artifacts(version.tags["lunaops.evaluation_run_id"])}
    assert logged > {"predictions.parquet", "nodules.parquet", "excluded.parquet", "scans.csv"}


def test_its_run_in_mlflow_holds_metrics_and_pictures_without_torch(tmp_path):
    paths = write_inputs(tmp_path)
    code = (
        "import sys; from lunaops.command import run; from stages.evaluate import main\n"
        "try: run(main)\n"
        "finally: print('torch' in sys.modules)"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *options(paths)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n", done.stderr
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("lunaops").experiment_id])
    assert run.data.metrics["test/cpm"] == 1.0 and run.data.metrics["test/pr/recall"] == 1.0
    assert run.data.params["evaluate.threshold"] == "0.5"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {
        *("metrics.json", "plots", "predictions.parquet", "report.html")
    }
    assert "plots/froc.png" in {item.path for item in client.list_artifacts(run.info.run_id, "plots")}
