"""MLflow's half of tracking: one run, whose failures never stop a stage."""

import json
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lunaops.tracking_model import save_served_model

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from torch import nn

T = TypeVar("T")

logger = logging.getLogger(__name__)

_DEFAULT_EXPERIMENT = "lunaops"
_ENVIRONMENT = {  # MLflow's own defaults wait minutes for a server that hangs, and report usage to its makers
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages for models, not for agents
_PARAMS_A_REQUEST = 100  # this and the next are MLflow's limits
_PARAM_LENGTH = 6000
_CONTEXT_OF_SPLIT = {"train": "training", "val": "validation", "test": "test"}


class MlflowRun:
    """A run in MLflow. Its first failure is said in one line; from then on every method does nothing.

    Where MLFLOW_TRACKING_URI names no store, mlflow.db and mlruns/ in `folder` are it.
    `parent` is the training run's (run_id, model_id). A store that knows them makes this run that run's child and its
    metrics that model's; in another store the id is kept in the tag lunaops.train_run_id.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self._run_id = ""
        self.model_id: str | None = None
        own_uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._uri = own_uri or f"sqlite:///{folder / 'mlflow.db'}"
        self._artifacts = None if own_uri or folder == Path() else str(folder / "mlruns")  # None: MLflow chooses
        self._is_off = self._uri == "off"
        self._source_tags = {key: value for key, value in tags.items() if key.startswith("mlflow.source.")}
        self._params = {key: _param_text(value) for key, value in params.items()}
        self._evaluated_model_id: str | None = None
        self._millis_of_step: dict[int, int] = {}
        self._datasets: dict[str, tuple[str, str]] = {}
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries are not news, the failure is
        self._attempt(lambda: self._start(name, dict(tags), *parent))

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run; None if it could not be opened."""
        return self._run_id or None

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log finite numbers; in a child run they are the evaluated model's too."""
        self._millis_of_step[step] = int(time.time() * 1000)
        self._log_metrics(metrics, step, self._evaluated_model_id)

    def log_dataset(self, frame: "pd.DataFrame", *, name: str, context: str, digest: str, source: Path) -> None:
        """Log the schema and the counts of the rows used; the rows stay where they are."""
        self._datasets[context] = (name, digest)
        self._attempt(lambda: self._log_dataset(frame, name, context, digest, source))

    def log_artifact(self, path: Path, folder: str | None) -> None:
        """Log a file."""
        self._attempt(lambda: self._client.log_artifact(self._run_id, str(path), folder))

    def log_artifacts(self, folder_path: Path, folder: str | None) -> None:
        """Log all files below a folder."""
        self._attempt(lambda: self._client.log_artifacts(self._run_id, str(folder_path), folder))

    def log_model(
        self,
        model: "nn.Module",
        example_hu: NDArray[np.float32],
        *,
        name: str,
        metrics: Mapping[str, float],
        step: int,
    ) -> str | None:
        """Log the model and its metrics; returns its id."""
        model_id = self._attempt(lambda: self._create_model(name, step))
        if model_id is None:
            return None
        self._attempt(lambda: self._export_model(model, example_hu, model_id))
        self._log_metrics(metrics, step, model_id)
        return self.model_id

    def close(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """End the run."""
        self._attempt(lambda: self._client.set_terminated(self._run_id, status))

    def _attempt(self, call: Callable[[], T]) -> T | None:
        if self._is_off:
            return None
        os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return call()
        except (MlflowException, SQLAlchemyError, OSError) as error:  # requests' errors are OSErrors
            self._is_off = True
            reason = _without_password(str(error).strip().partition("\n")[0])
            logger.warning(
                "MLflow (%s) failed, going on without it; reports/ is complete: %s",
                _without_password(self._uri),
                reason,
            )
            return None

    def _start(self, name: str, tags: dict[str, str], train_run_id: str | None, train_model_id: str | None) -> None:
        from mlflow import MlflowClient

        self._client: MlflowClient = MlflowClient(self._uri)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _DEFAULT_EXPERIMENT
        self._experiment_id = _experiment_id(self._client, experiment, self._artifacts)
        is_child = train_run_id is not None and _knows_run(self._client, train_run_id)
        if train_run_id is not None:
            tags["mlflow.parentRunId" if is_child else "lunaops.train_run_id"] = train_run_id
        self._run_id = self._client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id
        self._log_params()
        if is_child and train_model_id is not None and _knows_model(self._client, train_model_id):
            self._evaluate(train_model_id)
        logger.info("tracked as %r, experiment %r of %s", name, experiment, _without_password(self._uri))

    def _log_params(self) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in self._params.items()]
        for first in range(0, len(params), _PARAMS_A_REQUEST):
            self._client.log_batch(self._run_id, params=params[first : first + _PARAMS_A_REQUEST])

    def _evaluate(self, model_id: str) -> None:
        from mlflow.entities import LoggedModelInput

        self._client.log_inputs(self._run_id, models=[LoggedModelInput(model_id)])
        self.model_id = self._evaluated_model_id = model_id

    def _log_metrics(self, metrics: Mapping[str, float], step: int, model_id: str | None) -> None:
        self._attempt(
            lambda: self._client.log_batch(
                self._run_id, metrics=[self._metric(key, value, step, model_id) for key, value in metrics.items()]
            )
        )

    def _metric(self, key: str, value: float, step: int, model_id: str | None) -> "Metric":
        from mlflow.entities import Metric

        millis = self._millis_of_step.get(step) or int(time.time() * 1000)  # one time a step: no point appears twice
        context = _CONTEXT_OF_SPLIT.get(key.partition("/")[0], "")
        dataset_name, digest = self._datasets.get(context, (None, None))
        return Metric(key, value, millis, step, model_id, dataset_name, digest, self._run_id)

    def _log_dataset(self, frame: "pd.DataFrame", name: str, context: str, digest: str, source: Path) -> None:
        from mlflow.data.pandas_dataset import from_pandas
        from mlflow.entities import Dataset, DatasetInput, InputTag

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on paths and integer columns in general
            described = from_pandas(frame.head(100), source=str(source), name=name, digest=digest).to_dict()
        dataset = Dataset(**(described | {"profile": json.dumps(_counts(frame))}))
        self._client.log_inputs(
            self._run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        )

    def _create_model(self, name: str, step: int) -> str:
        from mlflow.entities import LoggedModelOutput

        created = self._client.create_logged_model(
            self._experiment_id, name, self._run_id, self._source_tags, self._params, "classifier"
        )
        model_id: str = created.model_id
        self._client.log_outputs(self._run_id, [LoggedModelOutput(model_id, step)])
        return model_id

    def _export_model(self, model: "nn.Module", example_hu: NDArray[np.float32], model_id: str) -> None:
        with tempfile.TemporaryDirectory() as parent_folder:
            folder = Path(parent_folder, "model")
            save_served_model(model, example_hu, folder, run_id=self._run_id, model_id=model_id)
            self._client.log_model_artifacts(model_id, str(folder))
        self._client.finalize_logged_model(model_id, "READY")
        self.model_id = model_id


def _experiment_id(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifacts, _EXPERIMENT_TAGS))
        except MlflowException as error:  # another run was quicker
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return _experiment_id(client, name, artifacts)
    return str(found.experiment_id)


def _knows_run(client: "MlflowClient", run_id: str) -> bool:
    run = _found(lambda: client.get_run(run_id))
    return run is not None and run.info.lifecycle_stage == "active"


def _knows_model(client: "MlflowClient", model_id: str) -> bool:
    return _found(lambda: client.get_logged_model(model_id)) is not None


def _found(get: Callable[[], T]) -> T | None:
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _param_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"


def _counts(frame: "pd.DataFrame") -> dict[str, int]:
    counts = {"num_rows": len(frame)}
    if "series_uid" in frame:
        counts["num_scans"] = int(frame["series_uid"].nunique())
    if "is_nodule" in frame:
        counts["num_nodule_rows"] = int(frame["is_nodule"].sum())
    return counts


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://***@", text)
