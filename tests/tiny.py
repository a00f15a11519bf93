"""A training small enough to be run, and killed, many times: two scans, crops of 16 voxels a side, real files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import ROOT, write_scan
from ruamel.yaml import YAML

from lunaops.crop_building import build_blocks
from lunaops.crops import Geometry, Manifest, write_manifest
from lunaops.tables import write_table

SIZE = (16, 16, 16)
NUM_TRAIN, NUM_VAL = 12, 9
PARAMS = {
    "epochs": 3,
    "samples_per_epoch": 20,
    "batch_size": 8,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "warmup_samples": 0,
    "checkpoint_every": 8,
    "precision": "fp32",  # auto would choose by the machine
}


def make_tiny(folder: Path, **train: Any) -> dict[str, Path]:
    """Write data and params below `folder`; the arguments of stages.train.main, with the outputs in folder/run."""
    random = np.random.default_rng(0)
    rows = []
    for series_uid, split, count in (("1", "train", NUM_TRAIN), ("2", "val", NUM_VAL)):
        hu = random.integers(-1000, -700, (20, 20, 20 * count)).astype(np.int16)
        for number in range(count):
            is_nodule = number % 3 == 0
            if is_nodule:
                hu[7:13, 7:13, 20 * number + 7 : 20 * number + 13] = 100
            rows.append((series_uid, split, 20.0 * number + 10, 10.0, 10.0, is_nodule))
        write_scan(folder / "raw" / "subset0" / f"{series_uid}.mhd", hu)
    candidates = pd.DataFrame(rows, columns=["series_uid", "split", "x", "y", "z", "is_nodule"])
    candidates.insert(0, "candidate_id", range(len(candidates)))
    scans = pd.DataFrame({"series_uid": ["1", "2"], "path": ["subset0/1.mhd", "subset0/2.mhd"]})
    geometry = Geometry(SIZE, (-1000, 1000), -1000)
    blocks = build_blocks(scans, candidates, raw=folder / "raw", geometry=geometry, folder=folder / "crops", workers=1)
    write_manifest(Manifest(geometry, tuple(blocks)), folder / "crops.json")
    write_table(candidates, folder / "candidates.parquet")
    write_table(pd.DataFrame({"nodule_id": []}), folder / "nodules.parquet")
    write_table(scans.assign(spacing="[1.0, 1.0, 1.0]"), folder / "scans.csv")
    tree = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    tree["train"] |= PARAMS | train
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(tree, file)
    return {
        "candidates": folder / "candidates.parquet",
        "nodules": folder / "nodules.parquet",
        "scans": folder / "scans.csv",
        "manifest": folder / "crops.json",
        "raw": folder / "raw",
        "params_file": folder / "params.yaml",
        **outputs(folder / "run"),
    }


def outputs(folder: Path) -> dict[str, Path]:
    """Where a run in `folder` writes."""
    return {
        "models": folder / "models",
        "reports": folder / "reports",
        "tensorboard": folder / "runs",
        "resume": folder / "resume.safetensors",
    }


def results(folder: Path) -> dict[str, bytes]:
    """All that must be equal between two runs of one seed, by the file's name; not what the run is called."""
    files = [*(folder / "models").rglob("*"), *(folder / "reports").rglob("*")]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.is_file() and path.name != "run.json"
    }
