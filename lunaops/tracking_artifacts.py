"""The files of a journal in its store: uploaded, looked for, deleted."""

import logging
import posixpath
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from lunaops.tracking_journal import Entry, files_of
from lunaops.tracking_store import Store, reason_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

logger = logging.getLogger(__name__)

_REFUSALS = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.NOT_IMPLEMENTED,
}


class Artifacts:
    """Files on their way into a store; `try_to_write` raises the store's errors where it takes nothing at all."""

    def __init__(self, store: Store, client: "MlflowClient", folder: Path, try_to_write: Callable[[], None]) -> None:
        self._store = store
        self._client = client
        self._folder = folder
        self._try_to_write = try_to_write
        self._repositories: dict[str, ArtifactRepository] = {}  # by the id of the run or the model
        self._uploaded: tuple[str, set[Path]] = ("", set())  # the files of one entry: the next attempt goes on there

    def log_to_run(self, entry: Entry, run_id: str) -> None:
        """Upload an entry's files to a run; raises the store's errors, and OSError where a file is not there then."""
        self._upload(
            entry,
            lambda path, folder: self._client.log_artifact(run_id, path, folder),
            lambda: self._repository_of_run(run_id),
        )

    def log_to_model(self, entry: Entry, model_id: str) -> None:
        """The same for a logged model."""
        self._upload(
            entry,
            lambda path, folder: self._client.log_model_artifact(model_id, path, folder),
            lambda: self._repository(model_id, lambda: self._client.get_logged_model(model_id).artifact_location),
        )

    def drop(self, folder: str, run_id: str) -> None:
        """Delete a folder of a run's artifacts; a store that takes files and lets none be deleted keeps it."""
        artifacts = self._repository_of_run(run_id)
        try:
            artifacts.delete_artifacts(folder)  # type: ignore[no-untyped-call]
        except NotImplementedError as error:
            reason = reason_of(error)
        except OSError as error:  # requests' errors are
            if not self._is_refused(error):
                raise
            reason = reason_of(error)
        else:
            return
        logger.warning("%s stays in MLflow: its store deletes nothing: %s", folder, reason)

    def _upload(
        self, entry: Entry, upload: Callable[[str, str | None], None], artifacts: Callable[[], "ArtifactRepository"]
    ) -> None:
        """Upload an entry's files one by one; those of a checkpoint may have been dropped since, even half-way."""
        kept = files_of(self._folder, entry["files"])
        if self._uploaded[0] != entry["files"]:
            self._uploaded = (entry["files"], set())
        paths = {
            file: Path(entry.get("folder") or "", file.relative_to(kept)).as_posix()
            for file in kept.rglob("*")
            if file.is_file()
        }
        if not paths:
            return
        try:
            for file in sorted(paths.keys() - self._uploaded[1]):
                upload(str(file), posixpath.dirname(paths[file]) or None)
                self._uploaded[1].add(file)
            self._verify(paths, artifacts())
        except OSError:
            if kept.exists():
                raise

    def _verify(self, paths: Mapping[Path, str], artifacts: "ArtifactRepository") -> None:
        """See that a server has the files: before it may be a proxy that answers with 200 and a page of its own."""
        try:
            missing = _missing(artifacts, {path: file.stat().st_size for file, path in paths.items()})
        except OSError as error:
            if not self._is_refused(error):
                raise
            return  # who may not look takes the answer for the file
        if missing:
            self._uploaded[1].difference_update(file for file, path in paths.items() if path in missing)
            raise OSError(f"{missing[0]} was accepted but is not there; does a proxy answer for the server?")

    def _repository_of_run(self, run_id: str) -> "ArtifactRepository":
        return self._repository(run_id, lambda: self._client.get_run(run_id).info.artifact_uri)

    def _repository(self, owner_id: str, uri: Callable[[], str]) -> "ArtifactRepository":
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if owner_id not in self._repositories:
            self._repositories[owner_id] = get_artifact_repository(uri(), self._store.uri)
        return self._repositories[owner_id]

    def _is_refused(self, error: OSError) -> bool:
        """Whether the store refuses this and takes other things; where it takes nothing, raises its error."""
        if getattr(getattr(error, "response", None), "status_code", None) not in _REFUSALS:
            return False
        self._try_to_write()
        return True


def _missing(artifacts: "ArtifactRepository", sizes: Mapping[str, int]) -> list[str]:
    """Of the files by their path, those that the store does not list with their size; none where it is no server."""
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    if not isinstance(artifacts, HttpArtifactRepository):
        return []
    listed: dict[str, int | None] = {}
    for folder in sorted({posixpath.dirname(path) for path in sizes}):
        found = artifacts.list_artifacts(folder or None)  # type: ignore[no-untyped-call]
        listed |= {file.path: file.file_size for file in found}
    return sorted(path for path, size in sizes.items() if listed.get(path, -1) not in {None, size})
