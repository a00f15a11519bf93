"""A journal's run as MLflow stores it: every entry can be delivered twice and is there once."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lunaops.tracking_artifacts import Artifacts
from lunaops.tracking_journal import Delivered, Entry, files_of
from lunaops.tracking_model import address_served_model
from lunaops.tracking_registry import EVALUATION_TAG, register_version
from lunaops.tracking_store import Store, reason_of

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run

T = TypeVar("T")

logger = logging.getLogger(__name__)

JOURNAL_TAG = "lunaops.journal_id"
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages for models, not for agents
_PARAMS_A_REQUEST = 100  # MLflow's limit
_CONTEXT_OF_SPLIT = {"train": "training", "val": "validation", "test": "test"}


class StoredRun:
    """Brings a journal's entries into a store, in their order; `delivered` keeps the ids that the store gives.

    MLflow takes a metric's point with an equal time as the same point and a param or file as the same one; what it
    would make twice (runs, models, links) is looked for by the journal's id before it is made.
    """

    def __init__(self, store: Store, folder: Path, delivered: Delivered) -> None:
        self._store = store
        self._client = store.client()
        self._folder = folder
        self._delivered = delivered
        self._source_tags: dict[str, str] = {}
        self._params: dict[str, str] = {}
        self._datasets: dict[str, tuple[str, str]] = {}
        self._artifacts = Artifacts(store, self._client, folder, self._try_to_write)

    def note(self, entry: Entry) -> None:
        """Remember what later entries refer to; for every entry from the first on, delivered or not."""
        if entry["do"] == "start":
            self._params = entry["params"]
            self._source_tags = {k: v for k, v in entry["tags"].items() if k.startswith("mlflow.source.")}
        elif entry["do"] == "dataset":
            self._datasets[entry["context"]] = (entry["dataset"]["name"], entry["dataset"]["digest"])

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Deliver one entry, or several of metrics; raises the store's errors."""
        deliver_one: dict[str, Callable[[Entry], None]] = {
            "start": self._start,
            "resume": lambda _: self._client.update_run(self._run_id, "RUNNING"),
            "dataset": self._log_dataset,
            "files": lambda entry: self._artifacts.log_to_run(entry, self._run_id),
            "drop": lambda entry: self._artifacts.drop(entry["folder"], self._run_id),
            "model": self._log_model,
            "register": self._register,
            "end": self._end,
        }
        first = entries[0]
        if first["do"] == "metrics":
            points = [self._metric(e, key, e["values"][key]) for e in entries for key in e["values"]]
            self._client.log_batch(self._run_id, metrics=points)
        else:
            deliver_one[first["do"]](first)

    def state(self) -> str:
        """Whether the store has the run: 'active', 'deleted' (by somebody) or 'unknown' to this store."""
        run = _found(lambda: self._client.get_run(self._run_id))
        return "unknown" if run is None else str(run.info.lifecycle_stage)

    @property
    def _run_id(self) -> str:
        assert self._delivered.run_id is not None, "a journal begins with its start"
        return self._delivered.run_id

    def _start(self, entry: Entry) -> None:
        name = entry["experiment"]
        self._delivered.experiment_id = self._find_or_create_experiment(name)
        parent = self._find_parent(entry["parent"])
        tags = entry["tags"] | {JOURNAL_TAG: self._folder.name}
        if entry["parent"] is not None:
            tags |= {"mlflow.parentRunId": parent.info.run_id} if parent else {"lunaops.train_journal": entry["parent"]}
        run = next(iter(self._find_runs()), None)
        if run is None:
            self._client.create_run(self._experiment_id, entry["millis"], tags, entry["name"])
            run = self._find_runs()[0]
        self._delivered.run_id = run.info.run_id
        self._log_params()
        self._delivered.evaluated_model_id = self._link_model_of(parent)
        logger.info("tracked as %r, experiment %r of %s", entry["name"], name, self._store.name)

    @property
    def _experiment_id(self) -> str:
        assert self._delivered.experiment_id is not None
        return self._delivered.experiment_id

    def _find_or_create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name, self._store.artifacts, _EXPERIMENT_TAGS))
        except MlflowException as error:  # another run was quicker
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._find_or_create_experiment(name)

    def _find_runs(self, journal_id: str | None = None, experiment_ids: list[str] | None = None) -> list["Run"]:
        """The runs of a journal, by default of this one; more than one only after an answer was lost on its way."""
        condition = f"tags.`{JOURNAL_TAG}` = '{journal_id or self._folder.name}'"
        found = self._client.search_runs(experiment_ids or [self._experiment_id], condition)
        return sorted(found, key=lambda run: str(run.info.run_id))

    def _find_parent(self, journal_id: str | None) -> "Run | None":
        if journal_id is None:
            return None
        experiments = [str(experiment.experiment_id) for experiment in self._client.search_experiments()]
        return next(iter(self._find_runs(journal_id, experiments)), None)

    def _log_params(self) -> None:
        from mlflow.entities import Param

        params = [Param(key, value) for key, value in self._params.items()]
        for first in range(0, len(params), _PARAMS_A_REQUEST):
            self._client.log_batch(self._run_id, params=params[first : first + _PARAMS_A_REQUEST])

    def _link_model_of(self, parent: "Run | None") -> str | None:
        """Make the parent's model the one that this run's metrics speak of; returns its id."""
        from mlflow.entities import LoggedModelInput

        if parent is None or parent.outputs is None or not parent.outputs.model_outputs:
            return None
        model_id = str(parent.outputs.model_outputs[-1].model_id)
        if _found(lambda: self._client.get_logged_model(model_id)) is None:
            return None
        inputs = self._client.get_run(self._run_id).inputs
        if inputs is None or model_id not in [used.model_id for used in inputs.model_inputs]:
            self._client.log_inputs(self._run_id, models=[LoggedModelInput(model_id)])
        return model_id

    def _metric(self, entry: Entry, key: str, value: float, model_id: str | None = None) -> "Metric":
        from mlflow.entities import Metric

        context = _CONTEXT_OF_SPLIT.get(key.partition("/")[0], "")
        dataset_name, digest = self._datasets.get(context, (None, None))
        model_id = model_id or self._delivered.evaluated_model_id
        return Metric(key, value, entry["millis"], entry["step"], model_id, dataset_name, digest, self._run_id)

    def _log_dataset(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = [InputTag("mlflow.data.context", entry["context"])]
        self._client.log_inputs(self._run_id, datasets=[DatasetInput(Dataset(**entry["dataset"]), tags)])

    def _try_to_write(self) -> None:
        """Raise the store's error where it refuses even what it has: then it is no one thing that it refuses."""
        self._client.set_tag(self._run_id, JOURNAL_TAG, self._folder.name)

    def _log_model(self, entry: Entry) -> None:
        model_id = self._find_or_create_model(entry)
        self._delivered.model_id = model_id
        address_served_model(files_of(self._folder, entry["files"]), run_id=self._run_id, model_id=model_id)
        self._artifacts.log_to_model(entry, model_id)
        self._client.finalize_logged_model(model_id, "READY")
        points = [self._metric(entry, key, value, model_id) for key, value in entry["values"].items()]
        self._client.log_batch(self._run_id, metrics=points)

    def _find_or_create_model(self, entry: Entry) -> str:
        from mlflow.entities import LoggedModelOutput

        if not self._find_models():
            tags = self._source_tags | {JOURNAL_TAG: self._folder.name}
            self._client.create_logged_model(
                self._experiment_id, entry["name"], self._run_id, tags, self._params, "classifier"
            )
        model_id = str(self._find_models()[0].model_id)
        outputs = self._client.get_run(self._run_id).outputs
        if outputs is None or model_id not in [output.model_id for output in outputs.model_outputs]:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model_id, entry["step"])])
        return model_id

    def _find_models(self) -> list["LoggedModel"]:
        condition = f"tags.`{JOURNAL_TAG}` = '{self._folder.name}'"
        found = self._client.search_logged_models([self._experiment_id], condition)
        return sorted(found, key=lambda model: str(model.model_id))

    def _register(self, entry: Entry) -> None:
        from mlflow.exceptions import MlflowException

        name, model_id = entry["name"], self._delivered.evaluated_model_id
        model = None if model_id is None else _found(lambda: self._client.get_logged_model(model_id))
        if model is None:
            logger.warning("MLflow has no model of the training run, so no version of %s is registered", name)
            return
        evidence = self._source_tags | entry["evidence"] | {EVALUATION_TAG: self._run_id}
        try:
            register_version(
                self._client,
                model,
                name,
                evidence=evidence,
                description=entry["description"],
                millis=entry["millis"],
            )
        except MlflowException as error:
            if error.error_code != "PERMISSION_DENIED":
                raise
            self._try_to_write()
            logger.warning("no version of %s is registered: %s", name, reason_of(error))

    def _end(self, entry: Entry) -> None:
        for run in self._find_runs():  # a server that answered too late may have made a second one after all
            if run.info.run_id != self._run_id:
                self._client.delete_run(run.info.run_id)
        if self._delivered.model_id is not None:
            for model in self._find_models():
                if model.model_id != self._delivered.model_id:
                    self._client.delete_logged_model(model.model_id)
        self._client.set_terminated(self._run_id, entry["status"], entry["millis"])


def described_dataset(
    frame: Any, *, name: str, digest: str, source: Path, profile: Mapping[str, int]
) -> dict[str, Any]:
    """A data set as MLflow keeps it: the frame's schema and `profile`, no row."""
    import json
    import warnings

    from mlflow.data.pandas_dataset import from_pandas

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on paths and integer columns in general
        described: dict[str, Any] = from_pandas(frame.head(100), source=str(source), name=name, digest=digest).to_dict()
    return described | {"profile": json.dumps(profile)}


def _found(get: Callable[[], T]) -> T | None:
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
