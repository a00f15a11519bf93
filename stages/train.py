"""Stage train: train the classifier and track every epoch."""

import logging
from collections import deque
from functools import partial
from pathlib import Path

import torch

from lunaops.command import run
from lunaops.crop_store import cache_folder
from lunaops.crops import CropReader, read_manifest
from lunaops.dataset import CropDataset
from lunaops.device import choose_device
from lunaops.distributed import join_world
from lunaops.errors import InputError
from lunaops.finetuning import freeze, init_from
from lunaops.interrupts import stop_on_signals
from lunaops.model import LunaModel, read_model
from lunaops.params import read_params
from lunaops.provenance import content_digest, device_name
from lunaops.record import TrainingRecord
from lunaops.resume import ResumeFile, training_fingerprint
from lunaops.tables import read_table, spacing_irc_of
from lunaops.task import TASKS, labelled
from lunaops.tracking import start_run, write_link
from lunaops.training import fit
from lunaops.training_state import TrainingState

logger = logging.getLogger(__name__)


def main(
    candidates: Path,
    nodules: Path,
    scans: Path,
    manifest: Path,
    raw: Path,
    models: Path,
    reports: Path,
    tensorboard: Path,
    resume: Path,
    params_file: Path = Path("params.yaml"),
) -> None:
    """Train on the split train, validate on val after each epoch, keep the best and the last model in MODELS.

    Interrupted, even by kill -9, the same command goes on from RESUME, a file that is there until training is complete.
    A Ctrl-C or SIGTERM after the last step has nothing left to interrupt: the run is completed and the exit code is 0,
    but MLflow is waited for no more than seconds. RAW is read only where the crop cache lacks a scan.
    MLFLOW_TRACKING_URI says where MLflow is.
    """
    params = read_params(params_file)
    task = TASKS[params.model.task]
    table = labelled(read_table(candidates), read_table(nodules), task)
    crops = CropReader(read_manifest(manifest), table, raw, cache_folder())
    train, val = (CropDataset(table, crops, label=task.label, splits=[split]) for split in ("train", "val"))
    for name, dataset in (("train", train), ("val", val)):
        if not len(dataset):
            raise InputError(f"split {name} has no candidate of a known class: change section split of params.yaml")
    start = torch.Generator().manual_seed(params.train.seed)
    model = LunaModel(crops.manifest.geometry.size_irc, params.model.channels, start)
    if params.train.init_from:
        init_from(model, Path(params.train.init_from), task)
    freeze(model, params.train.trainable_blocks)
    inputs = {"candidates": candidates, "nodules": nodules, "crops": manifest}
    with join_world(choose_device(params.train.device)) as (world, device), stop_on_signals() as stop:
        state = TrainingState(model, params.train, device)
        kept = ResumeFile(resume, training_fingerprint(params, inputs, device=device.type))
        spacing_irc = spacing_irc_of(train.table, read_table(scans))
        go_on = partial(
            fit,
            *(state, train, val),
            spacing_irc=spacing_irc,
            params=params.train,
            augment=params.augment,
            world=world,
            stop=stop,
        )
        if not world.is_first:  # this process computes its share; the first one writes and tracks
            kept.restore({"training": state})
            deque(go_on(), maxlen=0)
            return
        record = TrainingRecord(
            models, reports, best_by=params.train.best_by, geometry=crops.manifest.geometry, task=task
        )
        position = kept.restore({"training": state, "record": record})
        if position:
            logger.info("going on after %d epochs and %d batches", state.epoch, state.step)
        with start_run(
            kind="train",
            params=params.flattened(),
            inputs=inputs,
            tags={
                "device": device_name(str(device)),
                "split": params.split.strategy,
                "classes": ", ".join(task.classes),
            },
            tensorboard=tensorboard,
            resume=position,
            resume_file=resume,
            stop=stop,
        ) as tracker:
            digest = content_digest(candidates)
            described = partial(tracker.log_dataset, digest=digest, source=candidates)
            described(train.table, name="candidates train", context="training")
            described(val.table, name="candidates val", context="validation")

            def keep() -> None:
                kept.write({"training": state, "record": record}, tracker.position)

            keep()
            for result in go_on(checkpoint=keep):
                record.add(result, model)
                tracker.log_metrics(result.metrics | result.speed, step=result.samples)
                tracker.log_scores(
                    result.train.is_positive == 1, result.train.score, step=result.samples, split="train"
                )
                tracker.log_scores(result.val.is_positive == 1, result.val.score, step=result.samples, split="val")
                tracker.log_checkpoint(
                    models / "last",
                    epoch=result.epoch,
                    best_epoch=record.best_epoch.epoch,
                    keep=params.train.keep_checkpoints,
                )
                keep()
            best = record.best_epoch
            tracker.log_model(
                read_model(models / "best"), train[0].hu.float().numpy(), metrics=best.metrics, step=best.samples
            )
            tracker.log_artifacts(reports, "train")
            write_link(reports / "run.json", tracker.link)
    kept.remove()


if __name__ == "__main__":
    run(main)
