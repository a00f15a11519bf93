"""Stage train: train the classifier and track every epoch."""

from pathlib import Path

import torch

from lunaops.command import run
from lunaops.crop_store import cache_folder
from lunaops.crops import CropReader, read_manifest
from lunaops.dataset import CropDataset
from lunaops.device import choose_device
from lunaops.model import LunaModel, read_model
from lunaops.params import read_params
from lunaops.provenance import content_digest, device_name
from lunaops.record import TrainingRecord
from lunaops.tables import read_table
from lunaops.tracking import start_run, write_link
from lunaops.training import fit


def main(
    candidates: Path,
    manifest: Path,
    raw: Path,
    models: Path,
    reports: Path,
    tensorboard: Path,
    params_file: Path = Path("params.yaml"),
) -> None:
    """Train on the split train, validate on val after each epoch, keep the best and the last model in MODELS.

    RAW is read only where the crop cache lacks a scan. MLFLOW_TRACKING_URI says where MLflow is.
    """
    params = read_params(params_file)
    device = choose_device(params.train.device)
    table = read_table(candidates)
    crops = CropReader(read_manifest(manifest), table, raw, cache_folder())
    train, val = CropDataset(table, crops, splits=["train"]), CropDataset(table, crops, splits=["val"])
    start = torch.Generator().manual_seed(params.train.seed)
    model = LunaModel(crops.manifest.geometry.size_irc, params.model.channels, start)
    record = TrainingRecord(models, reports, best_by=params.train.best_by, geometry=crops.manifest.geometry)
    with start_run(
        kind="train",
        params=params.flattened(),
        inputs={"candidates": candidates, "crops": manifest},
        tags={"device": device_name(str(device)), "split": params.split.strategy},
        tensorboard=tensorboard,
    ) as tracker:
        digest = content_digest(candidates)
        tracker.log_dataset(train.table, name="candidates train", context="training", digest=digest, source=candidates)
        tracker.log_dataset(val.table, name="candidates val", context="validation", digest=digest, source=candidates)
        for result in fit(model, train, val, params=params.train, augment=params.augment, device=device):
            record.add(result, model)
            rate = {"train/samples_per_second": result.samples_per_second}
            tracker.log_metrics(result.metrics | rate, step=result.samples)
            tracker.log_scores(result.train.is_nodule == 1, result.train.score, step=result.samples, split="train")
            tracker.log_scores(result.val.is_nodule == 1, result.val.score, step=result.samples, split="val")
            tracker.log_artifacts(models / "last", f"checkpoints/epoch-{result.epoch:03d}")
        best = record.best_epoch
        tracker.log_model(
            read_model(models / "best"), train[0].hu.float().numpy(), metrics=best.metrics, step=best.samples
        )
        tracker.log_artifacts(reports, "train")
        write_link(reports / "run.json", tracker.link)


if __name__ == "__main__":
    run(main)
