"""Stage predict: score every candidate of the evaluated splits."""

from pathlib import Path

from lunaops.command import run
from lunaops.crop_store import cache_folder
from lunaops.crops import CropReader, read_manifest
from lunaops.dataset import CropDataset
from lunaops.device import choose_device
from lunaops.model import read_model
from lunaops.params import read_params
from lunaops.prediction import choose_gallery, predict_candidates, write_gallery
from lunaops.tables import read_table, write_table
from lunaops.task import TASKS, labelled


def main(
    models: Path,
    candidates: Path,
    nodules: Path,
    manifest: Path,
    raw: Path,
    predictions: Path,
    gallery: Path,
    params_file: Path = Path("params.yaml"),
) -> None:
    """Score the task's candidates with one of the MODELS, and keep the pictures that evaluate shows.

    RAW is read only where the crop cache lacks a scan.
    """
    params = read_params(params_file)
    task = TASKS[params.model.task]
    table = labelled(read_table(candidates), read_table(nodules), task)
    crops = CropReader(read_manifest(manifest), table, raw, cache_folder())
    scores = predict_candidates(
        read_model(models / params.predict.model, task.name),
        CropDataset(table, crops, label=task.label, splits=params.predict.splits),
        batch_size=params.predict.batch_size,
        device=choose_device(params.predict.device),
    )
    write_table(scores, predictions)
    write_gallery(choose_gallery(scores, task.label, params.predict.gallery), table, crops, gallery)


if __name__ == "__main__":
    run(main)
