"""Where MLflow is, and how it fails."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lunaops.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ENVIRONMENT = {  # MLflow's own defaults wait minutes for a server that hangs, and report usage to its makers
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the delivery tries again, and first looks what did arrive
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_SQLITE = "sqlite:///"
_REASON_LENGTH = 200


@dataclass(frozen=True)
class Store:
    """An MLflow: `uri` may hold a password and is good in any folder, `name` tells it from others without one.

    `artifacts` is where a new experiment's files go; None: MLflow chooses.
    """

    uri: str
    name: str
    artifacts: str | None

    @property
    def file(self) -> Path | None:
        """The database's file; None where it is no SQLite."""
        return Path(self.uri.removeprefix(_SQLITE)) if self.uri.startswith(_SQLITE) else None

    def client(self) -> "MlflowClient":
        """MLflow's client of this store; slow to import, so the main thread is the one that first asks for it."""
        os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries are not news
        from mlflow import MlflowClient

        return MlflowClient(self.uri)


def store_of(project: Path) -> Store | None:
    """The store that MLFLOW_TRACKING_URI names, by default mlflow.db; what is relative is in `project`. None: off."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri == "off":
        return None
    is_relative = uri.startswith(_SQLITE) and not Path(uri.removeprefix(_SQLITE)).is_absolute()
    artifacts = str(project / "mlruns") if is_relative and project != Path() else None
    return Store(_absolute(uri, project), _name(uri, project), artifacts)


def store_errors() -> tuple[type[Exception], ...]:
    """What is raised where a store is not there, refuses or breaks."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError  # requests' errors are OSErrors


@contextmanager
def asking(about: str) -> Iterator[None]:
    """What a store raises becomes an InputError that begins with `about`."""
    try:
        yield
    except store_errors() as error:
        raise InputError(f"{about}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """What an error says, in one line without a password."""
    line = _without_password(" ".join(str(error).split()))
    return line if len(line) <= _REASON_LENGTH else f"{line[:_REASON_LENGTH]}…"


def _absolute(uri: str, project: Path) -> str:
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(project, uri.removeprefix(_SQLITE)).resolve()}"
    return str(Path(project, uri).resolve()) if Path(project, uri).is_dir() else uri


def _name(uri: str, project: Path) -> str:
    """The URI without user, password and, for a file in the project, without the project's place."""
    bare = re.sub(r"://[^/\s]*@", "://", _without_password(uri)).rstrip("/")
    if not bare.startswith(_SQLITE):
        return bare
    file = Path(project, bare.removeprefix(_SQLITE)).resolve()
    root = project.resolve()
    return f"{_SQLITE}{file.relative_to(root) if file.is_relative_to(root) else file}"


def _without_password(text: str) -> str:
    text = re.sub(r"://[^/\s]*@", "://***@", text)
    return re.sub(r"(?i)([?&][a-z]*(?:password|token|secret)=)[^&\s]+", r"\1***", text)
