"""Files on their way from a journal into a store."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lunaops.tracking_artifacts import Artifacts
from lunaops.tracking_store import store_of

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from mlflow import MlflowClient


def test_files_that_were_all_dropped_ask_nothing_of_the_store(store: "MlflowClient", tmp_path: Path) -> None:
    found = store_of(tmp_path)
    assert found is not None
    artifacts = Artifacts(found, store, tmp_path, lambda: None)
    artifacts.log_to_run({"do": "files", "files": "dropped"}, "a run that the store would have to look for")
