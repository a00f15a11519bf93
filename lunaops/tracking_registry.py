"""MLflow's model registry: a version with its evidence, and which version is the challenger."""

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CHALLENGER, CHAMPION = "challenger", "champion"  # the aliases
_OURS = "lunaops."
EVALUATION_TAG = f"{_OURS}evaluation_run_id"  # of a version: the run that is its evidence
SPLIT_TAG = f"{_OURS}split"
_MILLIS_TAG = f"{_OURS}evaluated_millis"  # when that was logged, however late it is delivered
_VERSIONS_TAG = "mlflow.modelVersions"  # of a logged model: MLflow's page of it lists them


def register_version(
    client: "MlflowClient",
    model: "LoggedModel",
    name: str,
    *,
    evidence: Mapping[str, str],
    description: str,
    millis: int,
) -> None:
    """Make a logged model a version of the registered model `name`, once, and set the alias challenger on it.

    `evidence` becomes the version's tags, in place of an older one. An evaluation that is delivered late, after one of
    a later time, takes neither the alias nor the evidence from that; and who is champion already is no challenger.
    """
    version = _find_or_create(client, model, name)
    if _is_at_most(version, millis):
        tags = {**evidence, _MILLIS_TAG: str(millis)}
        for key in version.tags.keys() - tags.keys():
            if key.startswith(_OURS):
                client.delete_model_version_tag(name, version.version, key)
        for key, value in tags.items():
            client.set_model_version_tag(name, version.version, key, value)
        client.update_model_version(name, version.version, description)
    challenger = version_of(client, name, CHALLENGER)
    if CHAMPION in version.aliases:
        role = f"the {CHAMPION}"
    elif challenger is not None and not _is_at_most(challenger, millis):
        role = f"evaluated before version {challenger.version}, which stays the {CHALLENGER}"
    else:
        client.set_registered_model_alias(name, CHALLENGER, version.version)
        role = f"the {CHALLENGER}"
    logger.info("registered: version %s of %s, %s", version.version, name, role)


def versions_of_model(client: "MlflowClient", model_id: str) -> "list[ModelVersion]":
    """The versions under which a logged model is registered, with their aliases, in the order of their numbers."""
    found = client.search_model_versions(f"source_path LIKE '%{model_id}%'")  # models:/ID, or the folder of its files
    whole = [client.get_model_version(each.name, each.version) for each in found]  # a search leaves the aliases out
    return sorted(whole, key=lambda each: int(each.version))


def version_of(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """The version that an alias points to; None where there is no such alias or no such registered model."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:  # no model, no alias
            raise
        return None


def _find_or_create(client: "MlflowClient", model: "LoggedModel", name: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    model_id = str(model.model_id)
    if not _versions(client, model_id, name):
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # The folder, not models:/ID: that, MLflow looks up in the store of the environment, which may be another.
        client.create_model_version(name, str(model.artifact_location), model.source_run_id, model_id=model_id)
    listed = [{"name": each.name, "version": each.version} for each in versions_of_model(client, model_id)]
    client.set_logged_model_tags(model_id, {_VERSIONS_TAG: json.dumps(listed)})
    return _versions(client, model_id, name)[0]


def _versions(client: "MlflowClient", model_id: str, name: str) -> "list[ModelVersion]":
    return [each for each in versions_of_model(client, model_id) if each.name == name]


def _is_at_most(version: "ModelVersion", millis: int) -> bool:
    """Whether the version's evidence is not of a later time; it may have none."""
    return int(version.tags.get(_MILLIS_TAG, 0)) <= millis
