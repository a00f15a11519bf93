"""What MLflow knows of runs: found by id or name, with their models, relatives and registered versions."""

import json
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lunaops.errors import InputError
from lunaops.tracking_registry import EVALUATION_TAG, SPLIT_TAG, version_of, versions_of_model
from lunaops.tracking_store import asking, store_of

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion as RegisteredVersion

_COMMIT = "mlflow.source.git.commit"
_PARENT = "mlflow.parentRunId"
_KIND = "lunaops.kind"


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow holds it: params and tags as text, of each metric the value at its last step.

    `datasets` has the counts of rows, scans and nodule rows by name and use: 'candidates train (training)'.
    `model_ids` are those of the models that it logged or, if it evaluates, that it speaks of.
    """

    run_id: str
    name: str
    status: str
    experiment_id: str
    experiment: str
    start_millis: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    datasets: dict[str, dict[str, int]]
    model_ids: tuple[str, ...]

    @property
    def kind(self) -> str:
        """'train' or 'evaluate'; '' of a run that is not ours."""
        return self.tags.get(_KIND, "")

    @property
    def commit(self) -> str | None:
        """The commit that was checked out; None outside a repository."""
        return self.tags.get(_COMMIT)

    @property
    def is_dirty(self) -> bool:
        """Whether code differed from the commit."""
        return self.tags.get("git.dirty") == "true"

    @property
    def parent_id(self) -> str | None:
        """The training run of an evaluation, in this store or in another."""
        return self.tags.get(_PARENT) or self.tags.get("lunaops.train_run_id")


@dataclass(frozen=True)
class ModelVersion:
    """A registered version of a model, with the aliases that point to it.

    `evaluation_id` is the run that is its evidence and `split` what that evaluated, None where no evaluation registered
    it; `model_id` is None where what is registered is no logged model.
    """

    name: str
    version: str
    model_id: str | None
    aliases: tuple[str, ...]
    evaluation_id: str | None
    split: str | None


class RunStore:
    """The MLflow that MLFLOW_TRACKING_URI names, by default mlflow.db in the project's folder; it must be there.

    Every method raises InputError if the store does not answer.
    """

    def __init__(self, folder: Path = Path()) -> None:
        store = store_of(folder)
        if store is None:
            raise InputError("MLFLOW_TRACKING_URI is 'off'; name the store that holds the run")
        if store.file is not None and not store.file.exists():
            raise InputError(
                f"{store.file}: no such MLflow store; run from the project's root, or set MLFLOW_TRACKING_URI"
            )
        self._store = store
        with self._asking():
            self._client = store.client()
            self._experiments = {each.experiment_id: each.name for each in self._client.search_experiments()}

    @property
    def uri(self) -> str:
        """Where it is, from any folder; may hold a password."""
        return self._store.uri

    def find(self, text: str) -> TrackedRun:
        """The run of that id, of the only id that begins so, or of that name; raises InputError if not one run is."""
        by_id = self._search(f"attributes.run_id LIKE '{text}%'") if re.fullmatch("[0-9a-f]+", text) else []
        quote = '"' if "'" in text else "'"
        found = by_id or self._search(f"attributes.run_name = {quote}{text}{quote}")
        if len(found) != 1:
            several = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in found[:5])
            what = f"{len(found)} runs are called so: {several}; give an id" if found else "no such run"
            raise InputError(f"run {text!r}: {what} in MLflow at {self._store.name}")
        return self.get(found[0].info.run_id)

    def get(self, run_id: str) -> TrackedRun:
        """The run of exactly that id."""
        with self._asking():
            return _tracked(self._client.get_run(run_id), self._experiments)

    def has(self, run_id: str) -> bool:
        """Whether such a run is here, and not deleted."""
        return bool(self._search(f"attributes.run_id = '{run_id}'"))

    def children(self, run_id: str) -> list[TrackedRun]:
        """The runs that hang below a run, newest first."""
        return [self.get(run.info.run_id) for run in self._search(f"tags.`{_PARENT}` = '{run_id}'")]

    def newest(self, kind: str, commit: str, since_millis: int = 0) -> TrackedRun | None:
        """The newest run of a kind at a commit that began at that time or later; None: there is none."""
        of_kind = f"tags.`{_COMMIT}` = '{commit}' and tags.`{_KIND}` = '{kind}'"
        found = self._search(f"{of_kind} and attributes.start_time >= {since_millis}")
        return self.get(found[0].info.run_id) if found else None

    def versions(self, model_id: str) -> list[ModelVersion]:
        """The versions under which a logged model is registered."""
        with self._asking():
            return [_version(each) for each in versions_of_model(self._client, model_id)]

    def version_of(self, name: str, alias: str) -> ModelVersion | None:
        """The version of a registered model that an alias points to; None where there is none."""
        with self._asking():
            found = version_of(self._client, name, alias)
        return None if found is None else _version(found)

    def set_alias(self, alias: str, version: ModelVersion) -> None:
        """Let an alias point to a version, and to no other."""
        with self._asking():
            self._client.set_registered_model_alias(version.name, alias, version.version)

    def tag(self, run_id: str, key: str, value: str) -> None:
        """Set a tag of a run."""
        with self._asking():
            self._client.set_tag(run_id, key, value)

    def url_of(self, run: TrackedRun) -> str:
        """The run's page where the store is a server; without user and password."""
        return f"{self._store.name}/#/experiments/{run.experiment_id}/runs/{run.run_id}"

    def _search(self, condition: str) -> list["Run"]:
        with self._asking():
            newest_first = ["attributes.start_time DESC"]
            return list(self._client.search_runs(list(self._experiments), condition, order_by=newest_first))

    def _asking(self) -> AbstractContextManager[None]:
        return asking(f"MLflow at {self._store.name}")


def _tracked(run: "Run", experiments: dict[str, str]) -> TrackedRun:
    info, data = run.info, run.data
    assert run.inputs is not None and run.outputs is not None, "a whole run has both"
    models: list[Any] = [*run.outputs.model_outputs, *run.inputs.model_inputs]
    return TrackedRun(
        run_id=info.run_id,
        name=info.run_name,
        status=info.status,
        experiment_id=info.experiment_id,
        experiment=experiments.get(info.experiment_id, info.experiment_id),
        start_millis=info.start_time,
        params=dict(data.params),
        tags=dict(data.tags),
        metrics=dict(data.metrics),
        datasets=dict(_dataset(each) for each in run.inputs.dataset_inputs),
        model_ids=tuple(model.model_id for model in models),
    )


def _version(found: "RegisteredVersion") -> ModelVersion:
    model_id = re.search(r"\bm-[0-9a-f]{32}\b", found.source or "")
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        model_id=model_id and model_id.group(),
        aliases=tuple(found.aliases),
        evaluation_id=found.tags.get(EVALUATION_TAG),
        split=found.tags.get(SPLIT_TAG),
    )


def _dataset(used: Any) -> tuple[str, dict[str, int]]:
    context = next((tag.value for tag in used.tags if tag.key == "mlflow.data.context"), "no use")
    return f"{used.dataset.name} ({context})", json.loads(used.dataset.profile or "{}")
