"""What earlier runs left in MLflow, read back."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lunaops.errors import InputError
from lunaops.tracking_store import asking, store_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def fetch_artifact_of(run_id: str, name: str, into: Path, *, folder: Path) -> Path:
    """Fetch a file that a run, or else the latest run below it that has one, logged; the store is that of `folder`.

    Raises InputError where MLflow is off, fails or does not know the run, and where there is no such file.
    """
    store = store_of(folder)
    if store is None:
        raise InputError(f"MLflow run {run_id}: MLFLOW_TRACKING_URI is off; set it to the store that knows the run")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with asking(f"MLflow run {run_id} of {store.name}"):
        client = store.client()
        owner = _run_with(client, run_id, name)
        return Path(client.download_artifacts(owner, name, str(into)))


def _run_with(client: "MlflowClient", run_id: str, name: str) -> str:
    """The run itself, or the latest of its children, that has the file."""
    experiment = client.get_run(run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["start_time DESC"])
    candidates: list[str] = [run_id, *(child.info.run_id for child in children)]
    for candidate in candidates:
        if any(item.path == name for item in client.list_artifacts(candidate)):
            return candidate
    raise InputError(
        f"MLflow run {run_id}: neither it nor a run below it has {name}; evaluate logs it, so evaluate that model again"
    )
