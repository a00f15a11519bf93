"""What the default data teach: the default run beside others: augmented, unbalanced, with shuffled training labels.

    python -m benchmarks.learning ["shuffled labels" unbalanced ...] [--seeds 1,2,3]

Runs the stages train, predict and evaluate on the tables and crops that `make repro` made, in a temporary
folder, without MLflow. Shuffled labels must teach nothing: what they reach is what a leak between the splits, or
luck, would give.
"""

import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from ruamel.yaml import YAML

from lunaops.tables import read_table, write_table
from stages import evaluate, predict, train

BOOK = {  # its chapter 11
    "samples_per_epoch": 0,
    "batch_size": 32,
    "optimizer": "sgd",
    "learning_rate": 0.001,
    "momentum": 0.99,
    "schedule": "constant",
    "warmup_samples": 0,
    "weight_decay": 0.0,
    "best_by": "loss/all",
}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {  # of params.yaml
    "default": {},
    "not mirrored": {"augment": {"flip": False}},
    "fully augmented": {"augment": {"offset_mm": 2.0, "scale": 0.1, "rotate_degrees": 180.0, "noise_hu": 15.0}},
    "unbalanced": {"train": {"balance": 0.0}},
    "unbalanced, the book's settings": {"train": {"balance": 0.0, **BOOK}, "augment": {"flip": False}},
    "shuffled labels": {},
}


def run_variant(variant: str, seed: int, folder: Path) -> dict[str, float]:
    """Train, predict and evaluate in `folder`; the numbers of the test split and the training's seconds."""
    params = folder / "params.yaml"
    tree = YAML(typ="safe").load(Path("params.yaml").read_text())
    tree["train"]["seed"] = seed
    for section, changed in CHANGES[variant].items():
        tree[section] |= changed
    with params.open("w") as file:
        YAML(typ="safe").dump(tree, file)
    candidates = Path("data/candidates.parquet")
    if variant == "shuffled labels":
        table = read_table(candidates)
        in_train = table["split"] == "train"
        shuffled = np.random.default_rng(seed).permutation(table.loc[in_train, "is_nodule"])
        table.loc[in_train, "is_nodule"] = shuffled
        candidates = folder / "candidates.parquet"
        write_table(table, candidates)
    inputs = {
        "candidates": candidates,
        "nodules": Path("data/nodules.parquet"),
        "manifest": Path("data/crops.json"),
        "raw": Path("data/raw"),
    }
    started = time.perf_counter()
    train.main(
        **inputs,
        scans=Path("data/scans.csv"),
        models=folder / "models",
        reports=folder / "train",
        tensorboard=folder / "runs",
        resume=folder / "resume.safetensors",
        params_file=params,
    )
    seconds = time.perf_counter() - started
    predictions, gallery = folder / "predictions.parquet", folder / "gallery.npz"
    predict.main(**inputs, models=folder / "models", predictions=predictions, gallery=gallery, params_file=params)
    evaluate.main(
        predictions=predictions,
        gallery=gallery,
        nodules=Path("data/nodules.parquet"),
        excluded=Path("data/excluded.parquet"),
        scans=Path("data/scans.csv"),
        data=Path("reports/data.json"),
        training_run=folder / "train" / "run.json",
        metrics=folder / "metrics.json",
        plots=folder / "plots",
        report=folder / "report.html",
        params_file=params,
    )
    return {**json.loads((folder / "metrics.json").read_text())[tree["evaluate"]["split"]], "seconds": seconds}


def main(
    variants: Annotated[list[str] | None, typer.Argument(help="Some of the keys of CHANGES; else all.")] = None,
    seeds: Annotated[str, typer.Option(help="Training seeds, with commas.")] = "1",
) -> None:
    """Print a row for each variant and seed."""
    os.environ["MLFLOW_TRACKING_URI"] = "off"
    logging.basicConfig(level=logging.WARNING)
    print("| variant | seed | CPM | average precision | ROC AUC | correct % | nodules found % | training s |")
    print("|---|---|---|---|---|---|---|---|")
    for variant in variants or CHANGES:
        for seed in map(int, seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                got = run_variant(variant, seed, Path(folder))
            print(
                f"| {variant} | {seed} | {got['cpm']:.3f} | {got['average_precision']:.3f} | {got['roc_auc']:.3f} | "
                f"{got['correct/all']:.1f} | {got['correct/pos']:.1f} | {got['seconds']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
