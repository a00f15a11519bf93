"""Where MLflow is: how a store is called, and that no password is said."""

from pathlib import Path

import pytest

from lunaops.tracking_store import reason_of, store_of


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("", "sqlite:///mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
        ("http://host:5000/", "http://host:5000"),
        ("https://me:se%40cret@host", "https://host"),
        ("postgresql://me:se@cret@host/db", "postgresql://host/db"),
        ("postgresql://host/db?password=secret&sslmode=require", "postgresql://host/db?password=***&sslmode=require"),
    ],
)
def test_a_store_is_called_by_its_place_without_user_and_password(
    uri: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    store = store_of(Path())
    assert store is not None
    assert store.name == name


def test_the_default_store_has_one_name_in_the_project_and_in_its_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    here, from_a_copy = store_of(Path()), store_of(tmp_path)
    assert here is not None and from_a_copy is not None
    assert here.name == from_a_copy.name
    assert from_a_copy.artifacts == str(tmp_path / "mlruns")


@pytest.mark.parametrize("uri", ["", "sqlite:///mlflow.db"])
def test_what_is_relative_is_in_the_project_wherever_that_is_asked(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    store = store_of(tmp_path)
    assert store is not None
    assert store.uri == f"sqlite:///{tmp_path}/mlflow.db" and store.file == tmp_path / "mlflow.db"
    assert (store.name, store.artifacts) == ("sqlite:///mlflow.db", str(tmp_path / "mlruns"))


def test_off_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "off")
    assert store_of(Path()) is None


def test_a_reason_is_one_short_line_without_a_password() -> None:
    error = OSError("cannot reach http://me:secret@host\nand postgresql://host/db?password=secret " + "x" * 1000)
    reason = reason_of(error)
    assert "secret" not in reason and "\n" not in reason and len(reason) < 300
